import type { RewriteOperation } from '../schemas/rewrite-plan.ts';
import type { CompressionState } from '../schemas/states.ts';
import { toDiskRow } from './backup-rows.ts';
import { batches } from './batches.ts';
import type { RewriteQueries } from './contract.ts';
import type { Database } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** A backup at rest has nobody who writes it anew. */
const NOBODY = { rewrite_id: null, rewrite_operation: null, rewrite_workflow_id: null, rewrite_run_id: null };
const COMPRESSING: CompressionState[] = ['Compressing', 'FinalizingCompression'];

export const rewriteQueries = (database: Database): RewriteQueries => {
  const { db } = database;
  return {
    async begin(backupId, { id, operation, workflowId, runId }) {
      return await oneAtATime(database, 'backups', async (trx) => {
        const row = await trx
          .selectFrom('backups')
          .select(['rewrite_id', 'rewrite_operation', 'rewrite_workflow_id', 'rewrite_run_id', 'compression'])
          .where('id', '=', backupId)
          .executeTakeFirstOrThrow();
        if (row.rewrite_id !== null) return row.rewrite_id === id ? null : toRun(row);
        await trx
          .updateTable('backups')
          .set({
            rewrite_id: id,
            rewrite_operation: operation,
            rewrite_workflow_id: workflowId,
            rewrite_run_id: runId,
            ...(operation === 'compressBackup' ? { compression: 'Compressing' as const } : {}),
          })
          .where('id', '=', backupId)
          .execute();
        return null;
      });
    },

    async finalize(backupId, operationId) {
      return await oneAtATime(database, 'backups', async (trx) => {
        const row = await trx
          .updateTable('backups')
          .set((column) => ({
            compression: column
              .case()
              .when('rewrite_operation', '=', 'compressBackup')
              .then<CompressionState>('FinalizingCompression')
              .else(column.ref('compression'))
              .end(),
          }))
          .where('id', '=', backupId)
          .where('rewrite_id', '=', operationId)
          .returning('id')
          .executeTakeFirst();
        return row !== undefined;
      });
    },

    async complete(backupId, operationId, { type, parentId, codec, compression, disks }) {
      await oneAtATime(database, 'backups', async (trx) => {
        const row = await trx
          .updateTable('backups')
          .set({
            type,
            parent_id: parentId,
            codec,
            ...(compression === null ? {} : { compression }),
            stored_bytes: disks.reduce((sum, disk) => sum + disk.storedBytes, 0),
            rewrite_failure: null,
            ...NOBODY,
          })
          .where('id', '=', backupId)
          .where('rewrite_id', '=', operationId)
          .returning('id')
          .executeTakeFirst();
        if (row === undefined) return;
        await trx.deleteFrom('backup_disks').where('backup_id', '=', backupId).execute();
        for (const some of batches(disks, 500)) {
          await trx
            .insertInto('backup_disks')
            .values(some.map((disk) => toDiskRow(backupId, disk)))
            .execute();
        }
      });
    },

    async end(backupId, operationId, failure) {
      await oneAtATime(database, 'backups', async (trx) => {
        await trx
          .updateTable('backups')
          .set((column) => ({
            compression: column
              .case()
              .when('compression', 'in', COMPRESSING)
              .then<CompressionState>(failure === null ? 'None' : 'CompressionError')
              .else(column.ref('compression'))
              .end(),
            ...(failure === null ? {} : { rewrite_failure: failure }),
            ...NOBODY,
          }))
          .where('id', '=', backupId)
          .where('rewrite_id', '=', operationId)
          .execute();
      });
    },

    async running() {
      const rows = await db
        .selectFrom('backups')
        .selectAll()
        .where('rewrite_id', 'is not', null)
        .orderBy('id')
        .execute();
      return rows.map((row) => ({ ...toRun(row), backupId: row.id, vmName: row.vm_name, host: row.host }));
    },
  };
};

const toRun = (row: {
  rewrite_id: string | null;
  rewrite_operation: RewriteOperation | null;
  rewrite_workflow_id: string | null;
  rewrite_run_id: string | null;
}) => ({
  id: row.rewrite_id ?? '',
  operation: row.rewrite_operation ?? 'compressBackup',
  workflowId: row.rewrite_workflow_id ?? '',
  runId: row.rewrite_run_id ?? '',
});
