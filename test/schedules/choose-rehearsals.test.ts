import { describe, expect, it } from 'vitest';
import { chooseBackup, chooseRehearsals, type TestedBackup } from '../../operations/choose-rehearsals.ts';

const NOW = new Date('2026-11-21T12:00:00Z');
const day = (n: number): string => new Date(NOW.getTime() - n * 86_400_000).toISOString();
const vmOf = (name: string) => ({ uuid: `uuid-${name}`, name });
const backup = (vm: string, id: string, age: number, more: Partial<TestedBackup> = {}): TestedBackup => ({
  id,
  vm: vmOf(vm),
  instant: day(age),
  isGood: true,
  testedAt: null,
  provedAt: null,
  ...more,
});
const proved = (age: number) => ({ testedAt: day(age), provedAt: day(age) });

describe('chooseRehearsals', () => {
  const RULES = { everySeconds: 30 * 86_400, now: NOW, seed: 'run' };
  const chosen = (names: string[], backups: TestedBackup[]) =>
    chooseRehearsals(names.map(vmOf), backups, RULES).map(({ vm, backupId }) => `${vm.name} ${backupId ?? 'none'}`);

  it.each([
    ['never proved VMs, by name', ['b', 'a'], [backup('a', 'a1', 1), backup('b', 'b1', 1)], ['a a1', 'b b1']],
    ['nobody who was proved lately', ['a'], [backup('a', 'a1', 1), backup('a', 'a2', 9, proved(8))], []],
    ['who was proved too long ago', ['a'], [backup('a', 'a1', 1), backup('a', 'a2', 40, proved(30))], ['a a1']],
    [
      'who was tested longest ago first, never first of all',
      ['a', 'b', 'c'],
      [backup('a', 'a1', 40, proved(31)), backup('b', 'b1', 1), backup('c', 'c1', 60, proved(50))],
      ['b b1', 'c c1', 'a a1'],
    ],
    [
      'who failed the last time, after those who were tested longer ago',
      ['a', 'b'],
      [backup('a', 'a1', 1, { isGood: true, testedAt: day(1), provedAt: null }), backup('b', 'b1', 50, proved(40))],
      ['b b1', 'a a1'],
    ],
    [
      'who failed after a proof',
      ['a'],
      [backup('a', 'a1', 2, { isGood: false, testedAt: day(1) }), backup('a', 'a2', 9, proved(8))],
      ['a a2'],
    ],
    [
      'a VM without a good backup, with nothing to prove it from',
      ['a'],
      [backup('a', 'a1', 1, { isGood: false })],
      ['a none'],
    ],
    ['a VM without any backup', ['a'], [], ['a none']],
    ['nobody else’s backups', ['a'], [backup('b', 'b1', 1), backup('a', 'a1', 5)], ['a a1']],
    [
      'a proof from a backup that was deleted since',
      ['a'],
      [backup('a', 'a1', 1), backup('a', 'gone', 20, { isGood: false, ...proved(19) })],
      [],
    ],
  ])('chooses %s', (_what, names, backups, expected) => {
    expect(chosen(names, backups)).toEqual(expected);
  });
});

describe('chooseBackup', () => {
  const three = (tested: Partial<Record<'new' | 'mid' | 'old', Partial<TestedBackup>>>) => [
    backup('a', 'old', 30, tested.old),
    backup('a', 'new', 1, tested.new),
    backup('a', 'mid', 15, tested.mid),
  ];
  it.each([
    ['the newest the first time', three({}), ['new']],
    ['an older one after the newest was tested', three({ mid: proved(14) }), ['old']],
    ['the newest after an older one was tested', three({ old: proved(1) }), ['new']],
    ['one that was never tested of the older ones', three({ new: proved(0.5), old: proved(10) }), ['mid']],
    ['the one tested longest ago when all were', three({ new: proved(0.5), old: proved(10), mid: proved(9) }), ['old']],
    ['the only good one', three({ new: { isGood: false }, mid: { isGood: false } }), ['old']],
    ['any of several older ones', three({ new: proved(0.5) }), ['mid', 'old']],
  ])('takes %s', (_what, backups, expected) => {
    expect(expected).toContain(chooseBackup(backups, 'run-1')?.id);
  });

  it('takes the same one again for the same run', () => {
    const backups = [...three({ new: proved(0.5) }), backup('a', 'older', 40)];
    expect(chooseBackup(backups, 'run-7')).toEqual(chooseBackup(backups.toReversed(), 'run-7'));
    const all = new Set(Array.from({ length: 40 }, (_, n) => chooseBackup(backups, `run-${n}`)?.id));
    expect([...all].toSorted()).toEqual(['mid', 'old', 'older']);
  });
});
