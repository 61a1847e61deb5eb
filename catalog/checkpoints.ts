import type { Transaction } from 'kysely';
import { HoldfastError } from '../schemas/failures.ts';
import type { CheckpointQueries } from './contract.ts';
import type { Database, Tables } from './database.ts';
import { oneAtATime } from './transaction.ts';

export const checkpointQueries = (database: Database): CheckpointQueries => ({
  async list(vmUuid) {
    const rows = await database.db
      .selectFrom('checkpoints')
      .selectAll()
      .where('vm_uuid', '=', vmUuid)
      .orderBy('backup_id')
      .execute();
    return rows.map(({ vm_uuid, backup_id, state, xml }) => ({ vmUuid: vm_uuid, backupId: backup_id, state, xml }));
  },

  async put({ vmUuid, backupId, state, xml }) {
    await oneAtATime(database, 'backups', async (trx) => {
      if (state === 'current') await retire(trx, vmUuid, await repositoryOf(trx, backupId));
      await trx
        .insertInto('checkpoints')
        .values({ vm_uuid: vmUuid, backup_id: backupId, state, xml })
        .onConflict((conflict) => conflict.columns(['vm_uuid', 'backup_id']).doUpdateSet({ state, xml }))
        .execute();
    });
  },

  async promote(vmUuid, backupId) {
    await oneAtATime(database, 'backups', async (trx) => {
      const checkpoint = await trx
        .selectFrom('checkpoints')
        .select('state')
        .where('vm_uuid', '=', vmUuid)
        .where('backup_id', '=', backupId)
        .executeTakeFirst();
      if (checkpoint === undefined) {
        throw new HoldfastError(
          'CheckpointLost',
          `checkpoint of backup ${backupId} is not in the catalog; it cannot become the parent`,
        );
      }
      // A late second attempt must not put an older checkpoint back in front of the one promoted since.
      if (checkpoint.state !== 'pending') return;
      await retire(trx, vmUuid, await repositoryOf(trx, backupId));
      await trx
        .updateTable('checkpoints')
        .set({ state: 'current' })
        .where('vm_uuid', '=', vmUuid)
        .where('backup_id', '=', backupId)
        .execute();
    });
  },

  async retire(vmUuid, repository) {
    await oneAtATime(database, 'backups', (trx) => retire(trx, vmUuid, repository));
  },

  async remove(vmUuid, backupId) {
    await database.db
      .deleteFrom('checkpoints')
      .where('vm_uuid', '=', vmUuid)
      .where('backup_id', '=', backupId)
      .execute();
  },
});

/** A VM may be backed up to several repositories: each has a chain, and so a parent, of its own. */
async function retire(trx: Transaction<Tables>, vmUuid: string, repository: string | undefined): Promise<void> {
  const current = await trx
    .selectFrom('checkpoints')
    .leftJoin('backups', 'backups.id', 'checkpoints.backup_id')
    .select(['checkpoints.backup_id', 'backups.repository'])
    .where('checkpoints.vm_uuid', '=', vmUuid)
    .where('checkpoints.state', '=', 'current')
    .execute();
  for (const former of current) {
    if ((former.repository ?? undefined) !== repository) continue;
    await trx
      .updateTable('checkpoints')
      .set({ state: 'retired' })
      .where('vm_uuid', '=', vmUuid)
      .where('backup_id', '=', former.backup_id)
      .execute();
  }
}

async function repositoryOf(trx: Transaction<Tables>, backupId: string): Promise<string | undefined> {
  const backup = await trx.selectFrom('backups').select('repository').where('id', '=', backupId).executeTakeFirst();
  return backup?.repository;
}
