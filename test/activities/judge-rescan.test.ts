import { describe, expect, it } from 'vitest';
import { judgeRescan, type KnownVm } from '../../activities/control/judge-rescan.ts';
import type { BackupRecord } from '../../catalog/contract.ts';
import type { FoundBackup, FoundVm } from '../../schemas/rescan.ts';
import { disk } from '../catalog/records.ts';
import { backup, fileOf, found, idOf, letterOf, LINE, lost, VM } from './found-backups.ts';

const NOTHING: KnownVm = { records: [], chains: [], checkpoints: [], elsewhere: new Map() };

/** What a catalog knows once it has taken all of that over. */
function knowing(vm: FoundVm, changed: Record<string, Partial<BackupRecord['backup']>> = {}): KnownVm {
  const { rescanned } = judgeRescan(vm, NOTHING, 'main');
  const records = rescanned.backups.map(
    ({ id, vmName, disks, strategy, requestedBy, offering, damage, failure, ...rest }) =>
      ({
        backup: { id, ...rest, vm: { uuid: VM, name: vmName }, repository: 'main', ...changed[letterOf(id)] },
        disks,
        strategy,
        requestedBy,
        offering,
        damage,
        failure,
      }) as unknown as BackupRecord,
  );
  const checkpoints = rescanned.checkpoints.map((one) => ({ vmUuid: VM, xml: null, ...one }));
  return { records, chains: rescanned.chains, checkpoints, elsewhere: new Map() };
}

/** `a BackedUp` of every backup that changes, and what is said. */
function told(vm: FoundVm, known: KnownVm = NOTHING) {
  const { rescanned, findings, added, changed } = judgeRescan(vm, known, 'main');
  return {
    backups: rescanned.backups.map(({ id, state }) => `${letterOf(id)} ${state}`),
    findings: findings.map(({ sort, backupId }) => (backupId === null ? sort : `${sort} ${letterOf(backupId)}`)),
    counts: [added, changed],
  };
}

describe('judgeRescan', () => {
  it('lists what has a manifest, parents first, and leaves the chain of the newest open', () => {
    const { rescanned, findings } = judgeRescan(found([LINE[2]!, LINE[0]!, LINE[1]!]), NOTHING, 'main');
    expect(rescanned.backups.map(({ id, state, endOfChain }) => [letterOf(id), state, endOfChain])).toEqual([
      ['a', 'BackedUp', false],
      ['b', 'BackedUp', false],
      ['c', 'BackedUp', false],
    ]);
    expect(rescanned.chains).toEqual([{ id: idOf('a'), state: 'open', size: 3, endedReason: null }]);
    expect(findings).toEqual([]);
  });

  it('takes the newest checkpoint of the open chain for the parent of the next, and keeps the others beside it', () => {
    const backups = [...LINE, backup('d', 'a', 'c', { hasCheckpoint: false })];
    const { checkpoints } = judgeRescan(found(backups), NOTHING, 'main').rescanned;
    expect(checkpoints.map(({ backupId, state }) => `${letterOf(backupId)} ${state}`)).toEqual([
      'c current',
      'b kept',
      'a kept',
    ]);
  });

  it.each<{ name: string; backups: FoundBackup[]; chains: string[]; ends: string[]; current: string | undefined }>([
    {
      name: 'a chain that a newer full took over from',
      backups: [...LINE, backup('d', 'd', null)],
      chains: ['a ended superseded', 'd open null'],
      ends: ['c'],
      current: 'd',
    },
    {
      name: 'a chain whose last one is its end',
      backups: [LINE[0]!, backup('b', 'a', 'a', { endOfChain: true })],
      chains: ['a ended chain-size-reached'],
      ends: ['b'],
      current: undefined,
    },
    {
      name: 'not one that only an isolated backup is newer than',
      backups: [...LINE, backup('d', 'd', null, { chainId: null, position: null, isolated: true })],
      chains: ['a open null'],
      ends: [],
      current: 'c',
    },
    {
      name: 'a chain whose newest is lost goes on from the one before',
      backups: [LINE[0]!, LINE[1]!, backup('c', 'a', 'b', lost('c'))],
      chains: ['a open null'],
      ends: [],
      current: 'b',
    },
  ])('ends $name', ({ backups, chains, ends, current }) => {
    const { rescanned } = judgeRescan(found(backups), NOTHING, 'main');
    expect(
      rescanned.chains.map(({ id, state, endedReason }) => `${letterOf(id)} ${state} ${endedReason ?? 'null'}`),
    ).toEqual(chains);
    expect(rescanned.backups.filter(({ endOfChain }) => endOfChain).map(({ id }) => letterOf(id))).toEqual(ends);
    const front = rescanned.checkpoints.find(({ state }) => state === 'current');
    expect(front && letterOf(front.backupId)).toBe(current);
  });

  it.each<{ name: string; vm: FoundVm; backups: string[]; findings: string[] }>([
    {
      name: 'a backup whose file is missing, and all that is built on it',
      vm: found([LINE[0]!, backup('b', 'a', 'a', lost('b')), LINE[2]!]),
      backups: ['a BackedUp', 'b Error', 'c Error'],
      findings: ['missing b', 'missing c'],
    },
    {
      name: 'not what needs another disk of it',
      vm: found([
        backup('a', 'a', null, {
          disks: [disk({ file: fileOf('a') }), disk({ target: 'vdb', number: 1, file: fileOf('a', 'vdb') })],
          problems: [{ file: fileOf('a', 'vdb'), problem: 'damaged', message: 'short' }],
        }),
        LINE[1]!,
      ]),
      backups: ['a Error', 'b BackedUp'],
      findings: ['damaged a'],
    },
    {
      name: 'a parent that nobody has',
      vm: found([LINE[1]!, LINE[2]!]),
      backups: ['a Error', 'b Error', 'c Error'],
      findings: ['missing b', 'missing c', 'missing a'],
    },
    {
      name: 'a manifest that cannot be read',
      vm: found([LINE[0]!], { unreadable: [{ backupId: idOf('b'), message: 'is not JSON' }] }),
      backups: ['b Error', 'a BackedUp'],
      findings: ['damaged b'],
    },
    {
      name: 'what no manifest names',
      vm: found([LINE[0]!], { surplus: [{ key: fileOf('x'), sizeBytes: 7, isUpload: true }] }),
      backups: ['a BackedUp'],
      findings: ['surplus'],
    },
    {
      name: 'a file that no manifest names though a backup is built on it',
      vm: found([LINE[0]!, backup('b', 'a', 'a', { disks: [disk({ file: fileOf('b'), backingFile: fileOf('z') })] })]),
      backups: ['a BackedUp', 'b Error'],
      findings: ['damaged b'],
    },
  ])('tells of $name', ({ vm, backups, findings }) => {
    expect(told(vm)).toMatchObject({ backups, findings });
    const again = told(vm, knowing(vm));
    expect(again).toEqual({ backups: [], findings: expect.arrayContaining(findings) as unknown, counts: [0, 0] });
  });

  it('changes nothing of what is known already, whatever was said of it since', () => {
    const vm = found(LINE);
    expect(told(vm, knowing(vm))).toEqual({ backups: [], findings: [], counts: [0, 0] });
    const since = { a: { state: 'Removed' as const }, b: { validation: 'Valid' as const }, c: { endOfChain: true } };
    expect(told(vm, knowing(vm, since)).backups).toEqual([]);
  });

  it.each<{ name: string; vm: FoundVm; before: Record<string, object>; backups: string[]; findings: string[] }>([
    {
      name: 'adds what the catalog lacks',
      vm: found(LINE),
      before: { c: { state: 'absent' } },
      backups: ['c BackedUp'],
      findings: [],
    },
    {
      name: 'marks what has lost its manifest, and what is built on it',
      vm: found([LINE[0]!, LINE[2]!]),
      before: {},
      backups: ['c Error', 'b Error'],
      findings: ['missing b', 'missing c'],
    },
    {
      name: 'leaves a backup alone that is being taken',
      vm: found(LINE),
      before: { c: { state: 'BackingUp', instant: null } },
      backups: [],
      findings: [],
    },
    {
      name: 'lists a deleted backup that has its manifest again',
      vm: found(LINE),
      before: { c: { state: 'Expunged' } },
      backups: ['c BackedUp'],
      findings: [],
    },
    {
      name: 'says nothing of a deleted backup',
      vm: found([LINE[0]!]),
      before: { b: { state: 'Expunged' }, c: { state: 'Failed', instant: null } },
      backups: [],
      findings: [],
    },
  ])('$name', ({ vm, before, backups, findings }) => {
    const known = knowing(found(LINE), before);
    const records = known.records.filter(({ backup: { state } }) => (state as string) !== 'absent');
    expect(told(vm, { ...known, records })).toMatchObject({ backups, findings });
  });

  it('takes its mark back when the files are there again, and leaves the marks of others', () => {
    const broken = knowing(found([LINE[0]!, backup('b', 'a', 'a', lost('b')), LINE[2]!]));
    expect(told(found(LINE), broken).backups).toEqual(['b BackedUp', 'c BackedUp']);
    const [a, ...others] = knowing(found(LINE)).records;
    const marked = { ...knowing(found(LINE)), records: [{ ...a!, damage: 'the segment at 0 was altered' }, ...others] };
    expect(told(found(LINE), marked).backups).toEqual([]);
  });

  it('keeps what a catalog knows of a disk where a manifest hides it', () => {
    const hidden = LINE.map((one) => ({ ...one, disks: one.disks.map((each) => ({ ...each, sourcePath: null })) }));
    expect(told(found(hidden), knowing(found(LINE))).backups).toEqual([]);
  });

  it('leaves a backup alone that is known in another repository', () => {
    const known = { ...NOTHING, elsewhere: new Map([[idOf('a'), 'second']]) };
    expect(told(found([LINE[0]!]), known)).toEqual({ backups: [], findings: ['elsewhere a'], counts: [0, 0] });
  });

  describe('where names are hidden', () => {
    const hidden = found([backup('a', 'a', null, { vmName: VM, host: 'encrypted' })], {
      sealed: [{ backupId: idOf('a'), message: 'give the identity' }],
    });
    const open = found([LINE[0]!]);

    it('says once for each VM that they could not be opened', () => {
      expect(told(hidden)).toEqual({ backups: ['a BackedUp'], findings: ['sealed'], counts: [1, 0] });
      expect(judgeRescan(hidden, NOTHING, 'main').findings[0]?.message).toMatch(/in 1 backups: give the identity$/);
    });

    it('gives backups their names once they are opened', () => {
      expect(told(open, knowing(hidden))).toEqual({ backups: ['a BackedUp'], findings: [], counts: [0, 1] });
      const { rescanned } = judgeRescan(open, knowing(hidden), 'main');
      expect(rescanned).toMatchObject({ name: 'web-1', host: 'kvm-1', backups: [{ vmName: 'web-1', host: 'kvm-1' }] });
    });

    it('leaves the names that the catalog knows', () => {
      expect(told(hidden, knowing(open))).toEqual({ backups: [], findings: [], counts: [0, 0] });
    });
  });
});
