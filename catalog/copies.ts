import { backupDiskRecord } from '../schemas/catalog.ts';
import type { CopyState } from '../schemas/copy.ts';
import { batches } from './batches.ts';
import type { CompletedCopy, CopyFilter, CopyQueries, CopyRecord } from './contract.ts';
import type { Kysely } from 'kysely';
import type { BackupCopyTable, Database, Tables } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** A copy at rest has nobody who writes it. */
const NOBODY = { operation_id: null, workflow_id: null, run_id: null };
/** Its files are in the repository. */
const THERE: CopyState[] = ['Copied', 'Removed'];
const NO_FAILURE = { failure_type: null, failure_message: null };

export const copyQueries = (database: Database): CopyQueries => {
  const { db } = database;

  async function selectRows({ vm, vms, repository, backupIds, states }: CopyFilter): Promise<CopyRecord[]> {
    if (states?.length === 0 || vms?.length === 0) return []; // `in ()` is no SQL
    const found: CopyRecord[] = [];
    for (const ids of backupIds === undefined ? [undefined] : batches(backupIds, 1_000)) {
      let query = db
        .selectFrom('backup_copies')
        .innerJoin('backups', 'backups.id', 'backup_copies.backup_id')
        .selectAll('backup_copies')
        .select('backups.vm_uuid')
        .orderBy('backups.sort_time', 'desc')
        .orderBy('backups.id', 'desc')
        .orderBy('backup_copies.repository');
      if (vm !== undefined) query = query.where('backups.vm_uuid', '=', vm);
      if (vms !== undefined) query = query.where('backups.vm_uuid', 'in', vms);
      if (repository !== undefined) query = query.where('backup_copies.repository', '=', repository);
      if (ids !== undefined) query = query.where('backup_copies.backup_id', 'in', ids);
      if (states !== undefined) query = query.where('backup_copies.state', 'in', states);
      found.push(...(await query.execute()).map(toRecord));
    }
    return found;
  }

  /** The files are those that its manifest names now: what was found of others before says nothing of them. */
  async function putFiles(
    trx: Kysely<Tables>,
    copy: { backupId: string; repository: string },
    { disks, copiedAt }: Pick<CompletedCopy, 'disks' | 'copiedAt'>,
  ): Promise<void> {
    const of = { backup_id: copy.backupId, repository: copy.repository };
    await trx
      .deleteFrom('backup_copy_disks')
      .where('backup_id', '=', of.backup_id)
      .where('repository', '=', of.repository)
      .execute();
    if (disks.length === 0) return;
    await trx
      .insertInto('backup_copy_disks')
      .values(
        disks.map(({ target, file, storedBytes }) => ({
          ...of,
          target,
          file,
          stored_bytes: storedBytes,
          copied_at: copiedAt,
          verified_at: null,
          damage: null,
        })),
      )
      .execute();
  }

  return {
    list: async (filter = {}) => await selectRows(filter),

    async vmsIn(repository) {
      const rows = await db
        .selectFrom('backup_copies')
        .innerJoin('backups', 'backups.id', 'backup_copies.backup_id')
        .select('backups.vm_uuid')
        .distinct()
        .where('backup_copies.repository', '=', repository)
        .where('backup_copies.state', 'in', THERE)
        .orderBy('backups.vm_uuid')
        .execute();
      return rows.map(({ vm_uuid }) => vm_uuid);
    },

    async find(backupId, repository) {
      return (await selectRows({ backupIds: [backupId], repository }))[0];
    },

    async begin({ backupId, repository, operationId, workflowId, runId }) {
      return await oneAtATime(database, 'backups', async (trx) => {
        const row = await trx
          .selectFrom('backup_copies')
          .select(['state', 'operation_id', 'workflow_id', 'run_id'])
          .where('backup_id', '=', backupId)
          .where('repository', '=', repository)
          .executeTakeFirst();
        if (row?.operation_id != null && row.operation_id !== operationId) {
          return { operationId: row.operation_id, workflowId: row.workflow_id ?? '', runId: row.run_id ?? '' };
        }
        if (row !== undefined && THERE.includes(row.state)) return 'there';
        const copying = {
          state: 'Copying' as CopyState,
          type: 'full' as const,
          parent_id: null,
          stored_bytes: 0,
          disks: '[]',
          copied_at: null,
          verified_at: null,
          damage: null,
          ...NO_FAILURE,
          operation_id: operationId,
          workflow_id: workflowId,
          run_id: runId,
        };
        await trx
          .insertInto('backup_copies')
          .values({ backup_id: backupId, repository, ...copying })
          .onConflict((conflict) => conflict.columns(['backup_id', 'repository']).doUpdateSet(copying))
          .execute();
        return null;
      });
    },

    async complete(backupId, repository, operationId, { state, type, parentId, disks, copiedAt }) {
      await oneAtATime(database, 'backups', async (trx) => {
        const completed = await trx
          .updateTable('backup_copies')
          .set({
            state,
            type,
            parent_id: parentId,
            disks: JSON.stringify(disks),
            stored_bytes: disks.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
            copied_at: copiedAt,
            ...NO_FAILURE,
            ...NOBODY,
          })
          .where('backup_id', '=', backupId)
          .where('repository', '=', repository)
          .where('operation_id', '=', operationId)
          .returning('backup_id')
          .execute();
        if (completed.length > 0) await putFiles(trx, { backupId, repository }, { disks, copiedAt });
      });
    },

    async end(backupId, repository, operationId, failure) {
      await oneAtATime(database, 'backups', async (trx) => {
        if (failure === null) {
          await trx
            .deleteFrom('backup_copies')
            .where('backup_id', '=', backupId)
            .where('repository', '=', repository)
            .where('operation_id', '=', operationId)
            .execute();
          return;
        }
        await trx
          .updateTable('backup_copies')
          .set({ state: 'CopyError', failure_type: failure.type, failure_message: failure.message, ...NOBODY })
          .where('backup_id', '=', backupId)
          .where('repository', '=', repository)
          .where('operation_id', '=', operationId)
          .execute();
      });
    },

    async note({ backupId, repository, state, type, parentId, disks, copiedAt }) {
      const found = {
        state,
        type,
        parent_id: parentId,
        disks: JSON.stringify(disks),
        stored_bytes: disks.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
        copied_at: copiedAt,
        verified_at: null,
        damage: null,
        ...NO_FAILURE,
        ...NOBODY,
      };
      await oneAtATime(database, 'backups', async (trx) => {
        const noted = await trx
          .insertInto('backup_copies')
          .values({ backup_id: backupId, repository, ...found })
          .onConflict((conflict) =>
            conflict
              .columns(['backup_id', 'repository'])
              .doUpdateSet(found)
              .where('backup_copies.operation_id', 'is', null),
          )
          .returning('backup_id')
          .execute();
        if (noted.length > 0) await putFiles(trx, { backupId, repository }, { disks, copiedAt });
      });
    },

    async setState(backupId, repository, state, expected) {
      let query = db
        .updateTable('backup_copies')
        .set({ state })
        .where('backup_id', '=', backupId)
        .where('repository', '=', repository)
        .returning('backup_id');
      if (expected !== undefined) query = query.where('state', 'in', expected);
      return (await query.execute()).length > 0;
    },

    async setDamage(repository, ids, damage) {
      for (const some of batches(ids, 1_000)) {
        await db
          .updateTable('backup_copies')
          .set({ damage })
          .where('repository', '=', repository)
          .where('backup_id', 'in', some)
          .execute();
      }
    },

    async running() {
      const rows = await db
        .selectFrom('backup_copies')
        .innerJoin('backups', 'backups.id', 'backup_copies.backup_id')
        .select(['backup_id', 'backup_copies.repository', 'backups.vm_name'])
        .select(['operation_id', 'backup_copies.workflow_id', 'backup_copies.run_id'])
        .where('operation_id', 'is not', null)
        .orderBy('backup_id')
        .orderBy('backup_copies.repository')
        .execute();
      return rows.map((row) => ({
        backupId: row.backup_id,
        repository: row.repository,
        vmName: row.vm_name,
        operationId: row.operation_id ?? '',
        workflowId: row.workflow_id ?? '',
        runId: row.run_id ?? '',
      }));
    },
  };
};

const toRecord = (row: BackupCopyTable & { vm_uuid: string }): CopyRecord => ({
  backupId: row.backup_id,
  vmUuid: row.vm_uuid,
  repository: row.repository,
  state: row.state,
  type: row.type,
  parentId: row.parent_id,
  storedBytes: row.stored_bytes,
  disks: backupDiskRecord.array().parse(JSON.parse(row.disks)),
  copiedAt: row.copied_at,
  verifiedAt: row.verified_at,
  damage: row.damage,
  failure: row.failure_type === null ? null : { type: row.failure_type, message: row.failure_message ?? '' },
});
