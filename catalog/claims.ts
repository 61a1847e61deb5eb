import { randomUUID } from 'node:crypto';
import { dispatch, toGranted } from './admissions.ts';
import { batches } from './batches.ts';
import type { Granted } from './contract.ts';
import type { AdmissionTable, Database } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** An operation that works on many VMs for a moment each. */
export interface Claimant {
  operation: string;
  workflowId: string;
  runId: string;
}

export interface ClaimQueries {
  /**
   * Admits the operation to each of these VMs, with all its chains, that nobody has been granted anything of; at once, and
   * without a place in the queue: who waits goes on waiting. Gives those that are taken. Again: no change.
   */
  claim(claimant: Claimant, vmUuids: string[]): Promise<string[]>;
  /** Gives back all that a run has claimed, and grants to whom it helps. Again: nothing. */
  release(claimant: Claimant): Promise<Granted[]>;
}

export const claimQueries = (database: Database): ClaimQueries => ({
  async claim({ operation, workflowId, runId }, vmUuids) {
    return await oneAtATime(database, 'admissions', async (trx) => {
      const held = await trx.selectFrom('admissions').selectAll().where('state', '=', 'granted').execute();
      const isOwn = (row: AdmissionTable): boolean => row.workflow_id === workflowId && row.run_id === runId;
      const own = new Set(held.filter(isOwn).flatMap(({ vm_uuid }) => vm_uuid ?? []));
      const others = held.filter((row) => !isOwn(row));
      const heldChains = new Set(others.flatMap(({ chain_id }) => chain_id ?? []));
      const taken = new Set(others.flatMap(({ vm_uuid }) => vm_uuid ?? []));
      const chainsOf = new Map<string, Set<string>>();
      for (const some of batches(vmUuids, 500)) {
        const rows = await trx
          .selectFrom('backups')
          .select(['id', 'vm_uuid', 'chain_id'])
          .where('vm_uuid', 'in', some)
          .where('state', 'not in', ['Expunged', 'Failed'])
          .execute();
        for (const { id, vm_uuid, chain_id } of rows) {
          const chain = chain_id ?? id; // an isolated backup stands for itself
          if (heldChains.has(chain)) taken.add(vm_uuid);
          const chains = chainsOf.get(vm_uuid) ?? new Set<string>();
          chainsOf.set(vm_uuid, chains.add(chain));
        }
      }
      const last = await trx
        .selectFrom('admissions')
        .select('place')
        .orderBy('place', 'desc')
        .limit(1)
        .executeTakeFirst();
      let place = last?.place ?? 0;
      const now = new Date().toISOString();
      const row = (vmUuid: string | null, chain: string | null): AdmissionTable => ({
        operation_id: randomUUID(),
        operation,
        workflow_id: workflowId,
        run_id: runId,
        vm_uuid: vmUuid,
        chain_id: chain,
        chain_mode: chain === null ? null : 'exclusive',
        host: null,
        repository: null,
        tenant: 'default',
        priority: 5,
        state: 'granted',
        place: (place += 1),
        waited_for: '[]',
        requested_at: now,
        restores_backup_id: null,
      });
      const rows = vmUuids
        .filter((uuid) => !taken.has(uuid) && !own.has(uuid))
        .flatMap((uuid) => [row(uuid, null), ...[...(chainsOf.get(uuid) ?? [])].map((chain) => row(null, chain))]);
      for (const some of batches(rows, 500)) await trx.insertInto('admissions').values(some).execute();
      return vmUuids.filter((uuid) => taken.has(uuid));
    });
  },

  async release({ workflowId, runId }) {
    return await oneAtATime(database, 'admissions', async (trx) => {
      const given = await trx
        .deleteFrom('admissions')
        .where('workflow_id', '=', workflowId)
        .where('run_id', '=', runId)
        .returning('operation_id')
        .execute();
      if (given.length === 0) return [];
      const decisions = await dispatch(trx);
      return decisions.filter(({ obstacles }) => obstacles.length === 0).map(({ operation }) => toGranted(operation));
    });
  },
});
