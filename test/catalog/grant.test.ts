import { describe, expect, it } from 'vitest';
import { grant } from '../../catalog/grant.ts';
import type { Decision, Thing, WaitingOperation } from '../../catalog/grant.ts';
import { waitingFor } from '../../catalog/waiting-for.ts';

/** What an operation asks for, shortly: nothing unless given, tenant `t`, priority 3. */
interface Wish {
  vm?: string;
  reads?: string;
  writes?: string;
  host?: string;
  repo?: string;
  tenant?: string;
  priority?: number;
  waitedFor?: Thing[];
}

const operation = (name: string, wish: Wish, place: number): WaitingOperation => ({
  operationId: name,
  operation: 'takeBackup',
  workflowId: name,
  runId: `run-${name}`,
  vmUuid: wish.vm ?? null,
  chain: wish.writes ? { id: wish.writes, mode: 'exclusive' } : wish.reads ? { id: wish.reads, mode: 'shared' } : null,
  host: wish.host ?? null,
  repository: wish.repo ?? null,
  tenant: wish.tenant ?? 't',
  priority: wish.priority ?? 3,
  place,
  waitedFor: wish.waitedFor ?? [],
});

interface Case {
  name: string;
  granted?: Record<string, Wish>;
  /** In the order in which they came. */
  waiting: Record<string, Wish>;
  /** Slots; 4 unless given. */
  slots?: Record<string, number>;
  /** Who may start, in order of rank. */
  expected: string[];
}

function decide({ granted = {}, waiting, slots = {} }: Omit<Case, 'expected' | 'name'>): Decision[] {
  const list = (wishes: Record<string, Wish>) =>
    Object.entries(wishes).map(([name, wish], index) => operation(name, wish, index + 1));
  const slotsOf = (name: string): number => slots[name] ?? 4;
  return grant({ granted: list(granted), waiting: list(waiting), hostSlots: slotsOf, repositorySlots: slotsOf });
}

const whoMayStart = (decisions: Decision[]): string[] =>
  decisions.filter(({ obstacles }) => obstacles.length === 0).map(({ operation }) => operation.operationId);

const CASES: Case[] = [
  { name: 'grants one that asks for nothing', waiting: { a: {} }, expected: ['a'] },
  {
    name: 'grants everything that is free',
    waiting: { a: { vm: 'v', writes: 'c', host: 'h', repo: 'r' } },
    expected: ['a'],
  },
  { name: 'has nothing to grant when nobody waits', granted: { g: { vm: 'v' } }, waiting: {}, expected: [] },
  // VM
  { name: 'gives a VM to one at a time', waiting: { a: { vm: 'v' }, b: { vm: 'v' } }, expected: ['a'] },
  { name: 'does not give a VM that is held', granted: { g: { vm: 'v' } }, waiting: { a: { vm: 'v' } }, expected: [] },
  { name: 'gives different VMs together', waiting: { a: { vm: 'v' }, b: { vm: 'w' } }, expected: ['a', 'b'] },
  {
    name: 'gives all that is asked for or nothing',
    granted: { g: { vm: 'v' } },
    waiting: { a: { vm: 'v', host: 'h' }, b: { host: 'h' } },
    slots: { h: 1 },
    expected: ['b'],
  },
  // Chain
  {
    name: 'lets readers of a chain in together',
    waiting: { a: { reads: 'c' }, b: { reads: 'c' } },
    expected: ['a', 'b'],
  },
  {
    name: 'keeps a writer out while one reads',
    granted: { g: { reads: 'c' } },
    waiting: { a: { writes: 'c' } },
    expected: [],
  },
  {
    name: 'keeps readers out while one writes',
    granted: { g: { writes: 'c' } },
    waiting: { a: { reads: 'c' } },
    expected: [],
  },
  { name: 'keeps a second writer out', waiting: { a: { writes: 'c' }, b: { writes: 'c' } }, expected: ['a'] },
  {
    name: 'lets no reader overtake a waiting writer',
    granted: { g: { reads: 'c' } },
    waiting: { writer: { writes: 'c' }, reader: { reads: 'c' } },
    expected: [],
  },
  {
    name: 'lets a reader of higher rank go before a waiting writer',
    granted: { g: { reads: 'c' } },
    waiting: { writer: { writes: 'c' }, restore: { reads: 'c', priority: 0 } },
    expected: ['restore'],
  },
  {
    name: 'does not mix up a chain, a VM, a host and a repository of the same name',
    granted: { g: { vm: 'x' } },
    waiting: { a: { writes: 'x' }, b: { host: 'x' }, c: { repo: 'x' } },
    slots: { x: 1 },
    expected: ['a', 'b', 'c'],
  },
  // Slots
  {
    name: 'fills the slots of a host',
    granted: { g: { host: 'h' } },
    waiting: { a: { host: 'h' }, b: { host: 'h' }, c: { host: 'h' } },
    slots: { h: 3 },
    expected: ['a', 'b'],
  },
  {
    name: 'fills the slots of a repository across hosts',
    waiting: { a: { host: 'h', repo: 'r' }, b: { host: 'i', repo: 'r' }, c: { host: 'j', repo: 'r' } },
    slots: { r: 2 },
    expected: ['a', 'b'],
  },
  {
    name: 'grants nothing more where slots were taken away',
    granted: { g: { host: 'h' }, k: { host: 'h' } },
    waiting: { a: { host: 'h' } },
    slots: { h: 1 },
    expected: [],
  },
  {
    name: 'lets others pass one that cannot run',
    granted: { g: { vm: 'v' } },
    waiting: { stuck: { vm: 'v', host: 'h', repo: 'r' }, a: { vm: 'w', host: 'h', repo: 'r' } },
    slots: { h: 1, r: 1 },
    expected: ['a'],
  },
  // Rank
  {
    name: 'lets restores go first',
    waiting: { a: { host: 'h' }, restore: { host: 'h', priority: 0 } },
    slots: { h: 1 },
    expected: ['restore'],
  },
  {
    name: 'goes by priority before fairness before age',
    granted: { g: { tenant: 'blue' }, k: { tenant: 'green' }, l: { tenant: 'green' } },
    waiting: {
      low: { priority: 5 },
      green1: { tenant: 'green' },
      blue1: { tenant: 'blue' },
      red1: { tenant: 'red' },
      red2: { tenant: 'red' },
      urgent: { tenant: 'green', priority: 1 },
    },
    expected: ['urgent', 'red1', 'blue1', 'red2', 'green1', 'low'],
  },
  {
    name: 'takes turns among tenants, however many one of them sends',
    waiting: {
      big1: { tenant: 'big', host: 'h' },
      big2: { tenant: 'big', host: 'h' },
      big3: { tenant: 'big', host: 'h' },
      small1: { tenant: 'small', host: 'h' },
      small2: { tenant: 'small', host: 'h' },
    },
    slots: { h: 4 },
    expected: ['big1', 'small1', 'big2', 'small2'],
  },
  {
    name: 'serves first the tenant that holds least',
    granted: { g: { tenant: 'big', host: 'h' } },
    waiting: { big1: { tenant: 'big', host: 'h' }, small1: { tenant: 'small', host: 'h' } },
    slots: { h: 2 },
    expected: ['small1'],
  },
  {
    name: 'goes on with a tenant whose first cannot run',
    granted: { g: { vm: 'v', tenant: 'other' } },
    waiting: { a1: { vm: 'v', tenant: 'a' }, a2: { tenant: 'a' } },
    expected: ['a2'],
  },
  // Starvation
  {
    name: 'keeps for the first in rank what it waited for, though it is free and another could use it',
    granted: { g: { repo: 'r' } },
    waiting: { first: { host: 'h', repo: 'r', waitedFor: ['host'] }, a: { host: 'h' } },
    slots: { h: 1, r: 1 },
    expected: [],
  },
  {
    name: 'keeps only as many slots as the first in rank needs',
    granted: { g: { repo: 'r' } },
    waiting: { first: { host: 'h', repo: 'r', waitedFor: ['host'] }, a: { host: 'h' }, b: { host: 'h' } },
    slots: { h: 2, r: 1 },
    expected: ['a'],
  },
  {
    name: 'keeps nothing free for the second: a queue at one host does not idle a repository',
    granted: { g: { host: 'h' } },
    waiting: {
      first: { host: 'h', repo: 'r', waitedFor: ['host', 'repository'] },
      second: { host: 'h', repo: 'r', waitedFor: ['host', 'repository'] },
      elsewhere: { host: 'i', repo: 'r' },
    },
    slots: { h: 1, r: 2 },
    expected: ['elsewhere'],
  },
  {
    name: 'does not keep from the higher in rank what a lower one waited for',
    granted: { g: { repo: 'r' } },
    waiting: { low: { host: 'h', repo: 'r', waitedFor: ['host'], priority: 5 }, high: { host: 'h' } },
    slots: { h: 1, r: 1 },
    expected: ['high'],
  },
];

describe('grant', () => {
  it.each(CASES)('$name', ({ expected, ...state }) => {
    expect(whoMayStart(decide(state))).toEqual(expected);
  });

  it('remembers everything an operation ever had to wait for', () => {
    const [decision] = decide({
      granted: { g: { repo: 'r' } },
      waiting: { a: { vm: 'v', host: 'h', repo: 'r', waitedFor: ['host'] } },
      slots: { r: 1 },
    });
    expect(decision?.waitedFor).toEqual(['host', 'repository']);
  });

  it('lets everybody run in the end, never more at once than there is, however things are mixed', () => {
    const random = seeded(7);
    const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
    const slots: Record<string, number> = { h: 1, i: 2, r: 1, s: 2 };
    let worst = 0;
    for (let round = 0; round < 100; round++) {
      let place = 0;
      let waiting: WaitingOperation[] = [];
      let granted: WaitingOperation[] = [];
      const overtakenBy = new Map<string, number>();
      const arrive = (): void => {
        const wish = {
          vm: pick(['u', 'v', 'w', 'x']),
          [pick(['reads', 'writes'])]: pick(['c', 'd']),
          ...(random() < 0.8 && { host: pick(['h', 'i']) }),
          ...(random() < 0.8 && { repo: pick(['r', 's']) }),
          tenant: pick(['blue', 'green']),
        };
        waiting.push(operation(`op-${++place}`, wish, place));
      };
      for (let step = 0; step < 300; step++) {
        // A new one for each that ends, behind a queue that is there from the start.
        for (let come = step === 0 ? 20 : Number(step < 250); come > 0; come--) arrive();
        const slotsOf = (name: string): number => slots[name]!;
        const decisions = grant({ granted, waiting, hostSlots: slotsOf, repositorySlots: slotsOf });
        const started = new Set(whoMayStart(decisions));
        granted = [...granted, ...waiting.filter(({ operationId }) => started.has(operationId))];
        waiting = decisions
          .filter(({ obstacles }) => obstacles.length > 0)
          .map(({ operation, waitedFor }) => ({ ...operation, waitedFor }));
        for (const name of Object.keys(slots)) {
          const users = granted.filter(({ host, repository }) => host === name || repository === name);
          expect(users.length).toBeLessThanOrEqual(slots[name]!);
        }
        expect(new Set(granted.map(({ vmUuid }) => vmUuid)).size).toBe(granted.length);
        for (const { operationId, place } of waiting) {
          const younger = granted.filter((other) => started.has(other.operationId) && other.place > place).length;
          overtakenBy.set(operationId, (overtakenBy.get(operationId) ?? 0) + younger);
        }
        if (granted.length === 0) expect(waiting).toEqual([]); // else all would wait for one another
        granted.splice(Math.floor(random() * granted.length), 1);
      }
      expect(waiting).toEqual([]);
      worst = Math.max(worst, ...overtakenBy.values());
    }
    expect(worst).toBeLessThan(60); // younger ones that passed the least lucky of 270; it is 27 with this seed
  });

  it('lets one run that needs two things which are always wanted singly and never free together', () => {
    const patient = operation('patient', { host: 'h', repo: 'r' }, 1);
    let granted = [operation('h-0', { host: 'h' }, 0), operation('r-0', { repo: 'r' }, 0)];
    let waiting: WaitingOperation[] = [patient];
    for (let turn = 1; turn <= 4; turn++) {
      const [kind, wish] = turn % 2 === 0 ? ['r', { repo: 'r' }] : ['h', { host: 'h' }];
      waiting.push(operation(`${kind}-${turn}`, wish, 1 + turn));
      const decisions = grant({ granted, waiting, hostSlots: () => 1, repositorySlots: () => 1 });
      granted.push(...waiting.filter((one) => whoMayStart(decisions).includes(one.operationId)));
      waiting = decisions
        .filter(({ obstacles }) => obstacles.length > 0)
        .map(({ operation, waitedFor }) => ({ ...operation, waitedFor }));
      granted = granted.filter(({ operationId }) => !operationId.startsWith(kind)); // that kind's turn to end
    }
    expect(granted).toContainEqual(expect.objectContaining({ operationId: 'patient' }));
  });

  it('goes through ten thousand waiting operations in well under a second', () => {
    const waiting = Object.fromEntries(
      Array.from({ length: 10_000 }, (_, i) => [
        `op-${i}`,
        { vm: `vm-${i}`, host: `h-${i % 500}`, repo: 'r', tenant: `t-${i % 50}` },
      ]),
    );
    const started = performance.now();
    expect(whoMayStart(decide({ waiting, slots: { r: 100 } }))).toHaveLength(100);
    expect(performance.now() - started).toBeLessThan(5_000); // about 30 ms on an idle machine
  });
});

describe('waitingFor', () => {
  const sentence = (state: Omit<Case, 'expected' | 'name'>): string => {
    const decision = decide(state).findLast(({ obstacles }) => obstacles.length > 0);
    return waitingFor(decision?.obstacles ?? [], (uuid) => (uuid === 'v' ? 'web-1' : uuid));
  };

  it.each([
    {
      text: 'waiting for VM web-1: takeBackup g runs on it',
      granted: { g: { vm: 'v' } },
      waiting: { a: { vm: 'v' } },
    },
    {
      text: 'waiting for a slot of host kvm-1 (2 of 2 in use)',
      granted: { g: { host: 'kvm-1' }, k: { host: 'kvm-1' } },
      waiting: { a: { host: 'kvm-1' } },
      slots: { 'kvm-1': 2 },
    },
    {
      text: 'waiting for a slot of repository main (1 of 2 in use; takeBackup first comes first)',
      granted: { g: { vm: 'v' }, k: { repo: 'main' } },
      waiting: { first: { vm: 'v', repo: 'main', waitedFor: ['repository' as const] }, a: { repo: 'main' } },
      slots: { main: 2 },
    },
    {
      text: 'waiting for chain c: takeBackup g uses it, and 1 more',
      granted: { g: { reads: 'c' }, k: { reads: 'c' } },
      waiting: { a: { writes: 'c' } },
    },
    {
      text: 'waiting for VM web-1: takeBackup g runs on it, and for a slot of host h (1 of 1 in use)',
      granted: { g: { vm: 'v', host: 'h' } },
      waiting: { a: { vm: 'v', host: 'h' } },
      slots: { h: 1 },
    },
  ])('says: $text', ({ text, ...state }) => {
    expect(sentence(state)).toBe(text);
  });
});

/** Numbers from 0 to 1 that are the same in each run (Lehmer's generator). */
function seeded(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 48_271) % 0x7fffffff) / 0x7fffffff;
}
