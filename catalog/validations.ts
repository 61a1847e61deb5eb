import type { ValidationState } from '../schemas/states.ts';
import { validationResult } from '../schemas/validation.ts';
import type { ValidationQueries } from './contract.ts';
import type { Database } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** A backup at rest has nobody who validates it. */
const NOBODY = { validation_before: null, validation_workflow_id: null, validation_run_id: null };

export const validationQueries = (database: Database): ValidationQueries => {
  const { db } = database;
  return {
    async begin(id, run) {
      return await oneAtATime(database, 'backups', async (trx) => {
        const row = await trx
          .selectFrom('backups')
          .select(['validation', 'validation_workflow_id', 'validation_run_id'])
          .where('id', '=', id)
          .executeTakeFirstOrThrow();
        if (row.validation === 'Validating') {
          const holder = { workflowId: row.validation_workflow_id ?? '', runId: row.validation_run_id ?? '' };
          return holder.workflowId === run.workflowId && holder.runId === run.runId ? null : holder;
        }
        await trx
          .updateTable('backups')
          .set({
            validation: 'Validating',
            validation_before: row.validation,
            validation_workflow_id: run.workflowId,
            validation_run_id: run.runId,
          })
          .where('id', '=', id)
          .execute();
        return null;
      });
    },

    async restore(id, run) {
      await oneAtATime(database, 'backups', async (trx) => {
        await trx
          .updateTable('backups')
          .set((column) => ({
            validation: column.fn.coalesce('validation_before', column.val<ValidationState>('NotValidated')),
            ...NOBODY,
          }))
          .where('id', '=', id)
          .where('validation', '=', 'Validating')
          .where('validation_workflow_id', '=', run.workflowId)
          .where('validation_run_id', '=', run.runId)
          .execute();
      });
    },

    async complete(id, result) {
      const booted = result.steps.some(({ step, result: outcome }) => step === 'boot' && outcome === 'passed');
      await db
        .updateTable('backups')
        .set({
          validation: result.state,
          validation_result: JSON.stringify(result),
          validated_at: result.validatedAt,
          ...NOBODY,
          ...(booted && result.bootMs !== null ? { booted_at: result.validatedAt, boot_ms: result.bootMs } : {}),
        })
        .where('id', '=', id)
        .execute();
    },

    async running() {
      const rows = await db
        .selectFrom('backups')
        .select(['id', 'vm_name', 'validation_workflow_id', 'validation_run_id'])
        .where('validation', '=', 'Validating')
        .orderBy('id')
        .execute();
      return rows.map((row) => ({
        backupId: row.id,
        vmName: row.vm_name,
        workflowId: row.validation_workflow_id ?? '',
        runId: row.validation_run_id ?? '',
      }));
    },

    async resultOf(id) {
      const row = await db.selectFrom('backups').select('validation_result').where('id', '=', id).executeTakeFirst();
      return row?.validation_result == null ? null : validationResult.parse(JSON.parse(row.validation_result));
    },

    async lastBoot(vmUuid) {
      const row = await db
        .selectFrom('backups')
        .select(['id', 'booted_at', 'boot_ms'])
        .where('vm_uuid', '=', vmUuid)
        .where('booted_at', 'is not', null)
        .orderBy('booted_at', 'desc')
        .limit(1)
        .executeTakeFirst();
      if (row?.booted_at == null || row.boot_ms === null) return null;
      return { backupId: row.id, bootedAt: row.booted_at, bootMs: row.boot_ms };
    },

    async setDamage(ids, damage) {
      if (ids.length === 0) return;
      await db.updateTable('backups').set({ damage }).where('id', 'in', ids).execute();
    },
  };
};
