import { describe, expect, it } from 'vitest';
import { chooseParent, damageOf, filesBeneath, type ParentCandidate } from '../../activities/control/choose-parent.ts';
import type { BackupRecord } from '../../catalog/contract.ts';
import type { FullReason } from '../../schemas/states.ts';

const VM = '5b1f6f0a-57a4-4d55-9c0c-0e5a1b1c2d3e';
/** Backups are called by a letter. */
const idOf = (letter: string): string => '00000000-0000-4000-8000-000000000000'.replaceAll('0', letter);
const file = (id: string, target = 'vda'): string => `${VM}/${target}/${id}.qcow2`;

const record = (id: string, type: 'full' | 'incremental', damage: string | null = null): BackupRecord =>
  ({
    backup: { id: idOf(id), vm: { uuid: VM, name: 'web-1' } },
    disks: [{ target: 'vda', type, file: file(id), storedBytes: 100 }],
    damage,
  }) as unknown as BackupRecord;

const candidate = (...ancestry: BackupRecord[]): ParentCandidate => ({ record: ancestry.at(-1)!, ancestry });

const a = record('a', 'full');
const b = record('b', 'incremental');
const c = record('c', 'incremental');
const [onA, onB, onC] = [candidate(a), candidate(a, b), candidate(a, b, c)];
const LINE = [onC, onB, onA];

const gone = (id: string) => ({ file: file(id), problem: 'missing' as const });
const short = (id: string) => ({ file: file(id), problem: 'damaged' as const });

describe('chooseParent', () => {
  it.each<{
    name: string;
    candidates?: ParentCandidate[];
    problems?: ReturnType<typeof gone | typeof short>[];
    lost?: string[];
    full?: Record<string, FullReason[]>;
    parent: string | undefined;
    over?: string[];
  }>([
    { name: 'the youngest, where nothing is in doubt', parent: 'c' },
    { name: 'none, where there is none', candidates: [], parent: undefined },
    {
      name: 'the one before, when the youngest is gone',
      problems: [gone('c')],
      parent: 'b',
      over: ['c parent-missing'],
    },
    { name: 'or has another length', problems: [short('c')], parent: 'b', over: ['c parent-damaged'] },
    {
      name: 'the one before what is built on a lost one',
      problems: [gone('b')],
      parent: 'a',
      over: ['c parent-missing', 'b parent-missing'],
    },
    { name: 'the youngest, to be full, when the full itself is gone', problems: [gone('a')], parent: 'c' },
    { name: 'the one before, when the checkpoint proved lost', lost: ['c'], parent: 'b', over: ['c checkpoint-lost'] },
    { name: 'the youngest, to be full, when all proved lost', lost: ['a', 'b', 'c'], parent: 'c' },
    {
      name: 'the one whose bitmap still lives',
      full: { c: ['checkpoint-lost'] },
      parent: 'b',
      over: ['c checkpoint-lost'],
    },
    {
      name: 'the one whose bitmap still lives on more disks',
      full: { c: ['bitmap-inconsistent', 'disk-added'], b: ['disk-added'], a: ['disk-added'] },
      parent: 'b',
      over: ['c bitmap-inconsistent'],
    },
    {
      name: 'the youngest, where no older one is better',
      full: { c: ['disk-resized'], b: ['disk-resized'], a: ['disk-resized'] },
      parent: 'c',
    },
    {
      name: 'a whole one with less bitmaps rather than a damaged one with all',
      problems: [short('c')],
      full: { b: ['checkpoint-lost'], a: ['checkpoint-lost'] },
      parent: 'b',
      over: ['c parent-damaged'],
    },
    {
      name: 'none beneath which a validation found damage',
      candidates: [candidate(a, record('b', 'incremental', 'built on a backup that is not valid'), c), onA],
      parent: 'a',
      over: ['c parent-damaged'],
    },
    {
      name: 'one whose missing file was brought back',
      candidates: [candidate(a, record('b', 'incremental', damageOf(gone('b')))), onA],
      parent: 'b',
    },
    {
      name: 'one whose damaged ancestor no disk needs any more',
      candidates: [candidate(record('a', 'full', 'not valid'), record('b', 'full'))],
      parent: 'b',
    },
  ])('takes $name', ({ candidates = LINE, problems = [], lost = [], full = {}, parent, over = [] }) => {
    const chosen = chooseParent({
      candidates,
      problems,
      lost: lost.map(idOf),
      fullDisks: (one) => full[one.record.backup.id.slice(0, 1)] ?? [],
    });
    expect(chosen.parent?.record.backup.id.slice(0, 1)).toBe(parent);
    expect(chosen.passedOver.map(({ id, reason }) => `${id.slice(0, 1)} ${reason}`)).toEqual(over);
  });

  const since = (one: ParentCandidate, full: FullReason[] = [], problems: ReturnType<typeof gone>[] = []) =>
    chooseParent({ candidates: LINE, problems, lost: [], fullDisks: () => full, since: one });

  it('takes the one that was asked for, and says that it was', () => {
    expect(since(onA).passedOver).toEqual([
      { id: idOf('c'), reason: 'requested' },
      { id: idOf('b'), reason: 'requested' },
    ]);
    expect(since(onC)).toEqual({ parent: onC, passedOver: [] });
    expect(since(onB, ['disk-added']).parent).toBe(onB);
  });

  it('refuses the one that was asked for where it cannot serve, with the reason', () => {
    expect(() => since(onB, ['checkpoint-lost'])).toThrow(
      `since: nothing can be built on backup ${idOf('b')} of VM web-1: checkpoint-lost`,
    );
    expect(() => since(onB, [], [gone('a')])).toThrow('parent-missing');
  });
});

describe('filesBeneath', () => {
  it('are those of each disk back to its last full, with manifests and sums', () => {
    const both = (id: string, vdb: 'full' | 'incremental'): BackupRecord =>
      ({
        ...record(id, id === 'a' ? 'full' : 'incremental'),
        disks: [
          { target: 'vda', type: id === 'a' ? 'full' : 'incremental', file: file(id), storedBytes: 1 },
          { target: 'vdb', type: vdb, file: file(id, 'vdb'), storedBytes: 2 },
        ],
      }) as unknown as BackupRecord;
    const needed = [...filesBeneath(candidate(both('a', 'full'), both('b', 'full'), both('c', 'incremental'))).keys()];
    expect(needed.filter((key) => key.endsWith('.qcow2'))).toEqual([
      file('c'),
      file('c', 'vdb'),
      file('b'),
      file('b', 'vdb'),
      file('a'),
    ]);
    expect(needed.filter((key) => key.endsWith('.json'))).toHaveLength(3);
  });
});
