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
      if (state === 'current') await retireOthers(trx, vmUuid, backupId);
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
      await retireOthers(trx, vmUuid, backupId);
      await trx
        .updateTable('checkpoints')
        .set({ state: 'current' })
        .where('vm_uuid', '=', vmUuid)
        .where('backup_id', '=', backupId)
        .execute();
    });
  },

  async remove(vmUuid, backupId) {
    await database.db
      .deleteFrom('checkpoints')
      .where('vm_uuid', '=', vmUuid)
      .where('backup_id', '=', backupId)
      .execute();
  },
});

async function retireOthers(trx: Transaction<Tables>, vmUuid: string, backupId: string): Promise<void> {
  await trx
    .updateTable('checkpoints')
    .set({ state: 'retired' })
    .where('vm_uuid', '=', vmUuid)
    .where('backup_id', '!=', backupId)
    .where('state', '=', 'current')
    .execute();
}
