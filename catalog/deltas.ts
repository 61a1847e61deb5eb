import type { DeltaQueries } from './contract.ts';
import type { Database } from './database.ts';

export const deltaQueries = ({ db }: Database): DeltaQueries => ({
  async list(vmUuid) {
    const rows = await db
      .selectFrom('deltas')
      .selectAll()
      .where('vm_uuid', '=', vmUuid)
      .orderBy('path')
      .orderBy('backup_id')
      .execute();
    return rows.map((row) => ({
      backupId: row.backup_id,
      target: row.target,
      path: row.path,
      frozenPath: row.frozen_path,
      frozenFormat: row.frozen_format,
      frozenStamp: row.frozen_stamp,
    }));
  },

  async put(vmUuid, deltas) {
    for (const { backupId, target, path, frozenPath, frozenFormat, frozenStamp } of deltas) {
      const content = {
        path,
        frozen_path: frozenPath,
        frozen_format: frozenFormat,
        frozen_stamp: frozenStamp,
      };
      await db
        .insertInto('deltas')
        .values({ vm_uuid: vmUuid, backup_id: backupId, target, ...content })
        .onConflict((conflict) => conflict.columns(['vm_uuid', 'backup_id', 'target']).doUpdateSet(content))
        .execute();
    }
  },

  async remove(vmUuid, deltas) {
    for (const { backupId, target } of deltas) {
      await db
        .deleteFrom('deltas')
        .where('vm_uuid', '=', vmUuid)
        .where('backup_id', '=', backupId)
        .where('target', '=', target)
        .execute();
    }
  },
});
