import { describe, expect, it } from 'vitest';
import { planDelete } from '../../activities/control/plan-delete.ts';
import type { BackupRecord } from '../../catalog/contract.ts';
import type { BackupState } from '../../schemas/states.ts';
import { HoldfastError } from '../../schemas/failures.ts';

/** A chain as `name parent state`, each of 10 bytes, a minute after the one before. */
function chainOf(...lines: string[]): BackupRecord[] {
  return lines.map((line, minute) => {
    const [id = '', parent = '-', state = 'BackedUp'] = line.split(' ');
    return {
      backup: {
        id,
        vm: { uuid: 'vm', name: 'web-1' },
        type: parent === '-' ? 'full' : 'incremental',
        state: state as BackupState,
        parentId: parent === '-' ? null : parent,
        chainId: 'chain',
        position: 1,
        isolated: false,
        endOfChain: false,
        consistency: 'crash',
        instant: state === 'Failed' ? null : `2026-11-21T12:${String(minute).padStart(2, '0')}:00.000Z`,
        host: 'kvm-1',
        repository: 'main',
        compression: 'None',
        validation: 'NotValidated',
        disks: [],
        storedBytes: 10,
        durationMs: 0,
      },
      disks: [],
      workflowId: 'w',
      runId: 'r',
      createdAt: '2026-11-21T12:00:00.000Z',
      failure: null,
      strategy: 'checkpoint',
      offering: null,
      requestedBy: null,
      pinned: false,
      damage: null,
    };
  });
}

describe('planDelete', () => {
  it.each<{
    name: string;
    chain: string[];
    id: string;
    force?: boolean;
    openChain?: string | null;
    hide: boolean;
    expunge: string[];
    neededBy?: string[];
    ends: boolean;
  }>([
    {
      name: 'hides a full with a child',
      chain: ['a', 'b a', 'c b'],
      id: 'a',
      hide: true,
      expunge: [],
      neededBy: ['c', 'b'],
      ends: false,
    },
    {
      name: 'hides one in the middle',
      chain: ['a', 'b a', 'c b'],
      id: 'b',
      hide: true,
      expunge: [],
      neededBy: ['c'],
      ends: false,
    },
    {
      name: 'removes the newest and ends the chain',
      chain: ['a', 'b a', 'c b'],
      id: 'c',
      hide: false,
      expunge: ['c'],
      ends: true,
    },
    {
      name: 'takes hidden ancestors along, leaf to root',
      chain: ['a - Removed', 'b a Removed', 'c b'],
      id: 'c',
      hide: false,
      expunge: ['c', 'b', 'a'],
      ends: true,
    },
    {
      name: 'stops at the first living ancestor',
      chain: ['a - Removed', 'b a', 'c b Removed', 'd c'],
      id: 'd',
      hide: false,
      expunge: ['d', 'c'],
      ends: true,
    },
    {
      name: 'leaves a hidden ancestor that another branch needs',
      chain: ['a - Removed', 'b a', 'c a'],
      id: 'c',
      hide: false,
      expunge: ['c'],
      ends: true,
    },
    {
      name: 'ignores what is gone already',
      chain: ['a', 'b a Expunged', 'c a Failed'],
      id: 'a',
      hide: false,
      expunge: ['a'],
      ends: true,
    },
    {
      name: 'removes a failed one alone',
      chain: ['a', 'b a Failed'],
      id: 'b',
      hide: false,
      expunge: ['b'],
      ends: false,
    },
    {
      name: 'repeats a delete that stopped, or was ended by force',
      chain: ['a - Removed', 'b a Error'],
      id: 'b',
      hide: false,
      expunge: ['b', 'a'],
      ends: true,
    },
    {
      name: 'does not end a chain that is over',
      chain: ['a', 'b a'],
      id: 'b',
      openChain: 'another',
      hide: false,
      expunge: ['b'],
      ends: false,
    },
    {
      name: 'does not end the chain with an older leaf that was damaged',
      chain: ['a', 'b a', 'c a'],
      id: 'b',
      hide: false,
      expunge: ['b'],
      ends: false,
    },
    {
      name: 'takes no notice of a failed backup whose undo is open',
      chain: ['a', 'b a Failed'],
      id: 'a',
      hide: false,
      expunge: ['a'],
      ends: true,
    },
    {
      name: 'removes the whole chain by force, leaves first',
      chain: ['a', 'b a', 'c b'],
      id: 'b',
      force: true,
      hide: false,
      expunge: ['c', 'b', 'a'],
      ends: true,
    },
  ])('$name', ({ chain, id, force = false, openChain = 'chain', hide, expunge, neededBy = [], ends }) => {
    const plan = planDelete(chainOf(...chain), id, { force, openChain });
    expect({ ...plan, expunge: plan.expunge.map((backup) => backup.id) }).toMatchObject({
      hide,
      expunge,
      neededBy,
      endsChain: ends,
      freedBytes: expunge.length * 10,
    });
  });

  const OPEN = { force: false, openChain: 'chain' };

  it.each([
    [{ state: 'BackingUp' }, 'being taken; try again later'],
    [{ state: 'Restoring' }, 'being restored; try again later'],
    [{ compression: 'Compressing' }, 'being compressed; try again later'],
    [{ compression: 'FinalizingCompression' }, 'being compressed; try again later'],
    [{ validation: 'Validating' }, 'being validated; try again later'],
  ] as const)('refuses a backup with %j: it is %s', (busy, reason) => {
    const [record] = chainOf('a');
    if (record === undefined) return;
    const records = [{ ...record, backup: { ...record.backup, ...busy } }];
    expect(() => planDelete(records, 'a', OPEN)).toThrow(
      new HoldfastError('BackupNotDeletable', `backup a of VM web-1 is ${reason}`),
    );
  });

  it('refuses a pinned backup, also when the whole chain is to go', () => {
    const pinned = chainOf('a', 'b a').map((record) => ({ ...record, pinned: record.backup.id === 'a' }));
    for (const [id, force] of [
      ['a', false],
      ['b', true],
    ] as const) {
      expect(() => planDelete(pinned, id, { ...OPEN, force })).toThrow(
        /backup a of VM web-1 is pinned; unpin it first/,
      );
    }
    expect(planDelete(pinned, 'b', OPEN).expunge).toMatchObject([{ id: 'b' }]);
  });

  it('refuses by force while any backup of the chain is busy', () => {
    const chain = chainOf('a', 'b a BackingUp');
    expect(() => planDelete(chain, 'a', { ...OPEN, force: true })).toThrow(/b of VM web-1 is being taken/);
  });

  describe('where the repository locks what it is given for a day', () => {
    const at = (now: string) => ({ ...OPEN, locked: { days: 1, now: new Date(now) } });

    it.each([
      [
        'a backup that is younger',
        ['a'],
        '2026-11-22T11:59:59Z',
        /backup a of VM web-1 is locked.* until 2026-11-22T12:00:00/,
      ],
      [
        'one that another was built on later',
        ['a', 'b a Removed'],
        '2026-11-22T12:00:30Z',
        /is locked.* until 2026-11-22T12:01:00/,
      ],
    ] as const)('refuses %s', (_, chain, now, message) => {
      expect(() => planDelete(chainOf(...chain), 'a', at(now))).toThrow(message);
    });

    it('refuses the whole chain by force while one of it is locked', () => {
      expect(() => planDelete(chainOf('a', 'b a'), 'a', { ...at('2026-11-22T12:00:30Z'), force: true })).toThrow(
        /locked/,
      );
    });

    it('lets go what is older, and hides what has children at any time', () => {
      expect(planDelete(chainOf('a'), 'a', at('2026-11-22T12:00:00Z')).expunge).toHaveLength(1);
      expect(planDelete(chainOf('a', 'b a'), 'a', at('2026-11-21T12:05:00Z')).hide).toBe(true);
    });

    it('lets a backup go that did not come about', () => {
      expect(planDelete(chainOf('a - Failed'), 'a', at('2026-11-21T12:05:00Z')).expunge).toHaveLength(1);
    });
  });

  it('finds its way through a chain of ten thousand', () => {
    const chain = chainOf(...Array.from({ length: 10_000 }, (_, n) => (n === 0 ? 'b0' : `b${n} b${n - 1}`)));
    expect(planDelete(chain, 'b0', OPEN).neededBy).toHaveLength(9_999);
    expect(planDelete(chain, 'b5', { ...OPEN, force: true }).expunge.at(-1)?.id).toBe('b0');
  });
});
