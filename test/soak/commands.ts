import fc from 'fast-check';

/** What happens beside an operation, after so many milliseconds. */
export interface Disturbance {
  kind: 'none' | 'kill host worker' | 'kill control worker' | 'cancel';
  afterMs: number;
}

/** One step of a random life. Numbers that choose a VM, disk or backup are taken modulo what there is. */
export type Command =
  | { do: 'write'; vm: number; disk: number; at: number; blocks: number; pattern: number }
  | { do: 'take'; vm: number; isolated: boolean; full: boolean; plain: boolean; disturb: Disturbance }
  | { do: 'start' | 'stop' | 'finish'; vm: number }
  | { do: 'delete'; vm: number; backup: number; force: boolean }
  | { do: 'restore in place' | 'restore as new' | 'compress' | 'validate'; vm: number; backup: number };

const small = fc.nat({ max: 1000 });
const afterMs = fc.integer({ min: 20, max: 1500 });
const disturb = fc.oneof(
  { weight: 5, arbitrary: fc.constant<Disturbance>({ kind: 'none', afterMs: 0 }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('kill host worker' as const), afterMs }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('kill control worker' as const), afterMs }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('cancel' as const), afterMs }) },
);
/** True once in n. */
const rarely = (n: number) => fc.nat({ max: n - 1 }).map((drawn) => drawn === 0);
const power = fc.constantFrom('start' as const, 'stop' as const);
const onBackup = fc.constantFrom('restore as new' as const, 'compress' as const, 'validate' as const);

const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      vm: small,
      disk: small,
      at: fc.nat(),
      blocks: fc.integer({ min: 1, max: 20 }),
      pattern: fc.integer({ min: 0, max: 255 }),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('take' as const),
      vm: small,
      isolated: rarely(6),
      full: rarely(10),
      plain: fc.boolean(),
      disturb,
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: power, vm: small }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('finish' as const), vm: small }) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('delete' as const), vm: small, backup: small, force: rarely(5) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('restore in place' as const), vm: small, backup: small }) },
  { weight: 2, arbitrary: fc.record({ do: onBackup, vm: small, backup: small }) },
);

/** The same commands for the same seed. */
export const randomLife = (seed: number, count: number): Command[] => fc.sample(command, { seed, numRuns: count });
