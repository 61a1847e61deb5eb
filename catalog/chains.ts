import type { Transaction } from 'kysely';
import type { BackupState } from '../schemas/states.ts';
import { retireChain } from './checkpoints.ts';
import type { BackupTable, Tables } from './database.ts';

/** States of a backup that is whole and can be built upon: while it is being restored it is as good as before. */
export const LIVING: BackupState[] = ['BackedUp', 'Restoring'];

/** A new full takes over from the chains before it; the last of a chain ends its own. */
export async function growChain(trx: Transaction<Tables>, backup: BackupTable, chainId: string): Promise<void> {
  await trx
    .updateTable('chains')
    .set((column) => ({ size: column('size', '+', 1) }))
    .where('id', '=', chainId)
    .execute();
  if (backup.position === 1) {
    const others = await trx
      .selectFrom('chains')
      .leftJoin('backups', (join) =>
        join.onRef('backups.chain_id', '=', 'chains.id').on('backups.instant', 'is not', null),
      )
      .select((column) => ['chains.id', column.fn.max('backups.sort_time').as('newest')])
      .where('chains.vm_uuid', '=', backup.vm_uuid)
      .where('chains.repository', '=', backup.repository)
      .where('chains.state', '=', 'open')
      .where('chains.id', '!=', chainId)
      .groupBy('chains.id')
      .execute();
    // A full that is listed late, after its run was given up, takes over from nobody who came after it.
    const isLate = others.some(({ newest }) => newest !== null && newest > backup.sort_time);
    if (isLate) await endChain(trx, chainId, 'superseded');
    else for (const { id } of others) await endChain(trx, id, 'superseded');
  }
  if (backup.end_of_chain === 1) await endChain(trx, chainId, 'chain-size-reached');
}

/** Also marks the newest backup of the chain as its end. Ending it again keeps the first reason. */
export async function endChain(trx: Transaction<Tables>, chainId: string, reason: string): Promise<void> {
  const ended = await trx
    .updateTable('chains')
    .set({ state: 'ended', ended_reason: reason, ended_at: new Date().toISOString() })
    .where('id', '=', chainId)
    .where('state', '=', 'open')
    .returning('id')
    .executeTakeFirst();
  if (ended === undefined) return;
  await retireChain(trx, chainId);
  // By time: a chain may branch, and then two backups share a position.
  const newest = await trx
    .selectFrom('backups')
    .select('id')
    .where('chain_id', '=', chainId)
    .where('state', 'in', LIVING)
    .orderBy('sort_time', 'desc')
    .orderBy('position', 'desc')
    .limit(1)
    .executeTakeFirst();
  if (newest !== undefined) {
    await trx.updateTable('backups').set({ end_of_chain: 1 }).where('id', '=', newest.id).execute();
  }
}
