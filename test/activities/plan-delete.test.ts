import { describe, expect, it } from 'vitest';
import { planDelete } from '../../activities/control/plan-delete.ts';
import type { BackupRecord } from '../../catalog/contract.ts';
import type { BackupState } from '../../schemas/states.ts';
import { HoldfastError } from '../../schemas/failures.ts';

/** A chain as `name parent state`, each of 10 bytes. */
function chainOf(...lines: string[]): BackupRecord[] {
  return lines.map((line) => {
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
        instant: '2026-11-21T12:00:00.000Z',
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
      name: 'repeats a delete that stopped',
      chain: ['a - Removed', 'b a Error'],
      id: 'b',
      hide: false,
      expunge: ['b', 'a'],
      ends: false,
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
  ])('$name', ({ chain, id, force = false, hide, expunge, neededBy = [], ends }) => {
    const plan = planDelete(chainOf(...chain), id, { force });
    expect({ ...plan, expunge: plan.expunge.map((backup) => backup.id) }).toMatchObject({
      hide,
      expunge,
      neededBy,
      endsChain: ends,
      freedBytes: expunge.length * 10,
    });
  });

  it.each(['BackingUp', 'Restoring', 'Queued'])('refuses a backup that is %s', (state) => {
    expect(() => planDelete(chainOf(`a - ${state}`), 'a', { force: false })).toThrow(
      new HoldfastError('BackupNotDeletable', `backup a of VM web-1 is ${state}; try again later`),
    );
  });

  it('refuses by force while any backup of the chain is busy', () => {
    expect(() => planDelete(chainOf('a', 'b a BackingUp'), 'a', { force: true })).toThrow(/b of VM web-1 is BackingUp/);
  });
});
