import { sql } from 'kysely';
import type { Transaction } from 'kysely';
import type { Backup } from '../schemas/backup.ts';
import type { BackupDiskRecord } from '../schemas/catalog.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { BackupState, CompressionState } from '../schemas/states.ts';
import { toBackup, toDiskRecord, toDiskRow, toRecord, UNTOUCHED } from './backup-rows.ts';
import { batches } from './batches.ts';
import { endChain, growChain, LIVING } from './chains.ts';
import type { BackupFilter, BackupQueries, BackupRecord } from './contract.ts';
import type { BackupTable, Database, Tables } from './database.ts';
import { oneAtATime } from './transaction.ts';

const HIDDEN: BackupState[] = ['Removed', 'Expunged'];

export const backupQueries = (database: Database): BackupQueries => {
  const { db } = database;
  return {
    list: async (filter = {}) => await withDisks(await selectRows(filter), toBackup),

    records: async (filter = {}) => await withDisks(await selectRows(filter), toRecord),

    find: (id) => findRecord(id),

    async findByIdPrefix(prefix) {
      if (!/^[0-9a-f-]{4,36}$/i.test(prefix)) return [];
      const start = prefix.toLowerCase();
      const rows = await db
        .selectFrom('backups')
        .selectAll()
        .where('id', '>=', start)
        .where('id', '<', `${start}g`) // the first letter after those of an id
        .orderBy('id')
        .execute();
      return await withDisks(rows, toRecord);
    },

    async create(backup) {
      const now = new Date().toISOString();
      await oneAtATime(database, 'backups', async (trx) => {
        if (backup.chainId !== null && backup.position === 1) {
          await trx
            .insertInto('chains')
            .values({
              id: backup.chainId,
              vm_uuid: backup.vmUuid,
              repository: backup.repository,
              state: 'open',
              size: 0,
              ended_reason: null,
              created_at: now,
              ended_at: null,
            })
            .onConflict((conflict) => conflict.column('id').doNothing())
            .execute();
        }
        await trx
          .insertInto('backups')
          .values({
            id: backup.id,
            vm_uuid: backup.vmUuid,
            vm_name: backup.vmName,
            type: backup.type,
            state: 'BackingUp',
            parent_id: backup.parentId,
            chain_id: backup.chainId,
            position: backup.position,
            isolated: Number(backup.isolated),
            end_of_chain: Number(backup.endOfChain),
            consistency: null,
            instant: null,
            host: backup.host,
            repository: backup.repository,
            codec: backup.compression,
            strategy: backup.strategy ?? 'checkpoint',
            offering: backup.offering ?? null,
            requested_by: backup.requestedBy ?? null,
            ...UNTOUCHED,
            damage: null,
            compression: 'None',
            validation: 'NotValidated',
            stored_bytes: 0,
            duration_ms: 0,
            workflow_id: backup.workflowId,
            run_id: backup.runId,
            created_at: now,
            sort_time: now,
            failure_type: null,
            failure_message: null,
          })
          // Planned again by the same run: what the first plan said of it is void.
          .onConflict((conflict) =>
            conflict
              .column('id')
              .doUpdateSet({
                type: backup.type,
                parent_id: backup.parentId,
                chain_id: backup.chainId,
                position: backup.position,
                end_of_chain: Number(backup.endOfChain),
              })
              .where('backups.state', '=', 'BackingUp'),
          )
          .execute();
      });
    },

    async complete({ id, consistency, instant, durationMs, disks }) {
      await oneAtATime(database, 'backups', async (trx) => {
        const backup = await trx
          .updateTable('backups')
          .set((column) => ({
            state: 'BackedUp',
            consistency,
            instant,
            sort_time: new Date(instant).toISOString(),
            duration_ms: durationMs,
            failure_type: null, // its run may have been given up before its manifest was found
            failure_message: null,
            stored_bytes: disks.reduce((sum, disk) => sum + disk.storedBytes, 0),
            compression: column
              .case()
              .when('codec', '=', 'zstd')
              .then<CompressionState>('Compressed')
              .else<CompressionState>('None')
              .end(),
          }))
          .where('id', '=', id)
          .where('state', '=', 'BackingUp')
          .returningAll()
          .executeTakeFirst();
        if (backup === undefined) {
          await refuseUnlessCompleted(trx, id);
          return;
        }
        for (const some of batches(disks, 500)) {
          await trx
            .insertInto('backup_disks')
            .values(some.map((disk) => toDiskRow(id, disk)))
            .execute();
        }
        if (backup.chain_id !== null) await growChain(trx, backup, backup.chain_id);
      });
    },

    async fail(id, state, failure) {
      await oneAtATime(database, 'backups', async (trx) => {
        const backup = await trx
          .updateTable('backups')
          .set({ state, failure_type: failure.type, failure_message: failure.message })
          .where('id', '=', id)
          .where('state', 'in', state === 'Error' ? ['Queued', 'BackingUp', 'Failed'] : ['Queued', 'BackingUp'])
          .returning(['chain_id', 'position'])
          .executeTakeFirst();
        if (backup?.chain_id != null && backup.position === 1) await endChain(trx, backup.chain_id, 'full-failed');
      });
    },

    async setState(id, state, expected) {
      if (expected?.length === 0) return false;
      let query = db.updateTable('backups').set({ state }).where('id', '=', id).returning('id');
      if (expected !== undefined) query = query.where('state', 'in', expected);
      return (await query.execute()).length > 0;
    },

    async setPinned(id, pinned, note) {
      const changed = await db
        .updateTable('backups')
        .set({ pinned: Number(pinned), pin_note: pinned ? (note ?? null) : null })
        .where('id', '=', id)
        .where('state', 'in', LIVING)
        .returning('id')
        .execute();
      return changed.length > 0;
    },

    async current(vmUuid, repository) {
      const row = await db
        .selectFrom('backups')
        .innerJoin('chains', 'chains.id', 'backups.chain_id')
        .selectAll('backups')
        .where('backups.vm_uuid', '=', vmUuid)
        .where('backups.repository', '=', repository)
        .where('backups.isolated', '=', 0)
        .where('backups.state', 'in', LIVING)
        .where('chains.state', '=', 'open')
        .orderBy('backups.sort_time', 'desc')
        .orderBy('backups.position', 'desc')
        .limit(1)
        .executeTakeFirst();
      return row && (await withDisks([row], toRecord))[0];
    },

    async lastChain(vmUuid, repository) {
      // By its newest backup: a chain whose full failed, or is still being taken, is not yet one.
      const chain = await db
        .selectFrom('backups')
        .innerJoin('chains', 'chains.id', 'backups.chain_id')
        .select(['chains.id', 'chains.state', 'chains.ended_reason'])
        .where('backups.vm_uuid', '=', vmUuid)
        .where('backups.repository', '=', repository)
        .where('backups.instant', 'is not', null)
        .orderBy('backups.sort_time', 'desc')
        .orderBy('backups.position', 'desc')
        .limit(1)
        .executeTakeFirst();
      return chain && { id: chain.id, open: chain.state === 'open', endedReason: chain.ended_reason };
    },

    async diskNumbers(vmUuid) {
      const rows = await db
        .selectFrom('backup_disks')
        .innerJoin('backups', 'backups.id', 'backup_disks.backup_id')
        .select(['backup_disks.target', 'backup_disks.number'])
        .where('backups.vm_uuid', '=', vmUuid)
        .orderBy('backups.sort_time')
        .execute();
      return new Map(rows.map(({ target, number }) => [target, number]));
    },

    async ancestry(id) {
      const line = await db
        .withRecursive('line', (recursive) =>
          recursive
            .selectFrom('backups')
            .select(['backups.id', 'backups.parent_id', sql<number>`0`.as('distance')])
            .where('backups.id', '=', id)
            .unionAll(
              recursive
                .selectFrom('backups')
                .innerJoin('line', 'line.parent_id', 'backups.id')
                .select(['backups.id', 'backups.parent_id', sql<number>`line.distance + 1`.as('distance')]),
            ),
        )
        .selectFrom('line')
        .innerJoin('backups', 'backups.id', 'line.id')
        .selectAll('backups')
        .orderBy('line.distance', 'desc')
        .execute();
      return await withDisks(line, toRecord);
    },

    async children(id) {
      const rows = await db
        .selectFrom('backups')
        .selectAll()
        .where('parent_id', '=', id)
        .orderBy('sort_time')
        .orderBy('id')
        .execute();
      return await withDisks(rows, toRecord);
    },

    async unfinished(vmUuid) {
      let query = db.selectFrom('backups').selectAll().where('state', '=', 'BackingUp');
      if (vmUuid !== undefined) query = query.where('vm_uuid', '=', vmUuid);
      return await withDisks(await query.orderBy('sort_time').orderBy('id').execute(), toRecord);
    },

    endChain: (chainId, reason) => oneAtATime(database, 'backups', (trx) => endChain(trx, chainId, reason)),

    async vmsIn(repository, { after, limit }) {
      const rows = await db
        .selectFrom('backups')
        .select('vm_uuid')
        .distinct()
        .where('repository', '=', repository)
        .where('vm_uuid', '>', after ?? '')
        .orderBy('vm_uuid')
        .limit(limit)
        .execute();
      return rows.map(({ vm_uuid }) => vm_uuid);
    },

    async hasAny(vmUuid) {
      const row = await db
        .selectFrom('backups')
        .select('id')
        .where('vm_uuid', '=', vmUuid)
        .where('instant', 'is not', null) // set when it came about, and never taken away
        .limit(1)
        .executeTakeFirst();
      return row !== undefined;
    },
  };

  async function selectRows({
    vm,
    vms,
    repository,
    all = false,
    copied = false,
    states,
    limit,
  }: BackupFilter): Promise<BackupTable[]> {
    let query = db.selectFrom('backups').selectAll().orderBy('sort_time', 'desc').orderBy('id', 'desc');
    if (vm !== undefined) {
      query = query.where((where) => where.or([where('vm_uuid', '=', vm.toLowerCase()), where('vm_name', '=', vm)]));
    }
    if (vms?.length === 0) return [];
    if (vms !== undefined) query = query.where('vm_uuid', 'in', vms);
    if (repository !== undefined) query = query.where('repository', '=', repository);
    if (states?.length === 0) return []; // `in ()` is no SQL
    if (states !== undefined) query = query.where('state', 'in', states);
    else if (!all) {
      query = query.where((where) =>
        where.or([
          where('state', 'not in', HIDDEN),
          ...(copied
            ? [
                where.exists(
                  where
                    .selectFrom('backup_copies')
                    .select('backup_copies.backup_id')
                    .whereRef('backup_copies.backup_id', '=', 'backups.id')
                    .where('backup_copies.state', '=', 'Copied'),
                ),
              ]
            : []),
        ]),
      );
    }
    if (limit !== undefined) query = query.limit(limit);
    return await query.execute();
  }

  async function findRecord(id: string): Promise<BackupRecord | undefined> {
    const row = await db.selectFrom('backups').selectAll().where('id', '=', id).executeTakeFirst();
    return row && (await withDisks([row], toRecord))[0];
  }

  /** Disks are written with the state `BackedUp` and never change, so reading them second shows them all. */
  async function withDisks<Shape extends Backup | BackupRecord>(
    rows: BackupTable[],
    shape: (row: BackupTable, disks: BackupDiskRecord[]) => Shape,
  ): Promise<Shape[]> {
    const disks = new Map<string, BackupDiskRecord[]>(rows.map(({ id }) => [id, []]));
    for (const ids of batches([...disks.keys()], 1_000)) {
      const found = await db
        .selectFrom('backup_disks')
        .selectAll()
        .where('backup_id', 'in', ids)
        .orderBy('number')
        .execute();
      for (const disk of found) disks.get(disk.backup_id)?.push(toDiskRecord(disk));
    }
    return rows.map((row) => shape(row, disks.get(row.id) ?? []));
  }
};

/** A commit whose answer was lost comes again and finds the backup complete; one that was given up stays so. */
async function refuseUnlessCompleted(trx: Transaction<Tables>, id: string): Promise<void> {
  const backup = await trx.selectFrom('backups').select(['state', 'instant']).where('id', '=', id).executeTakeFirst();
  if (backup === undefined) throw new HoldfastError('BackupNotFound', `backup ${id} is not in the catalog`);
  if (backup.instant === null) {
    throw new HoldfastError('BackupNotFound', `backup ${id} was given up (${backup.state}); it cannot be completed`);
  }
}
