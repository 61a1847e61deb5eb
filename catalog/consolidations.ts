import { consolidation } from '../schemas/consolidation.ts';
import type { Consolidation } from '../schemas/consolidation.ts';
import type { ConsolidationQueries } from './contract.ts';
import type { ConsolidationTable, Database } from './database.ts';

export const consolidationQueries = ({ db }: Database): ConsolidationQueries => ({
  async list() {
    const rows = await db.selectFrom('consolidations').selectAll().orderBy('since').orderBy('id').execute();
    return rows.map(toRecord);
  },

  async find(id) {
    const row = await db.selectFrom('consolidations').selectAll().where('id', '=', id).executeTakeFirst();
    return row && toRecord(row);
  },

  async findByVm(nameOrUuid) {
    const rows = await db
      .selectFrom('consolidations')
      .selectAll()
      .where((where) => where.or([where('vm_uuid', '=', nameOrUuid.toLowerCase()), where('vm_name', '=', nameOrUuid)]))
      .orderBy('since')
      .execute();
    return rows.map(toRecord);
  },

  async create(record) {
    await db
      .insertInto('consolidations')
      .values({
        id: record.id,
        vm_uuid: record.vm.uuid,
        vm_name: record.vm.name,
        backup_id: record.backupId,
        host: record.host,
        repository: record.repository,
        state: record.state,
        rate_bytes_per_second: record.rateBytesPerSecond,
        plan: JSON.stringify(record.plan),
        prepared: JSON.stringify(record.prepared),
        damage: record.damage,
        verified_at: record.verifiedAt,
        workflow_id: record.workflowId,
        run_id: record.runId,
        since: record.since,
      })
      .onConflict((conflict) => conflict.column('id').doNothing())
      .execute();
  },

  async update(id, { state, rateBytesPerSecond, damage, verifiedAt, run }) {
    const changes: Partial<ConsolidationTable> = {
      ...(state === undefined ? {} : { state }),
      ...(rateBytesPerSecond === undefined ? {} : { rate_bytes_per_second: rateBytesPerSecond }),
      ...(damage === undefined ? {} : { damage }),
      ...(verifiedAt === undefined ? {} : { verified_at: verifiedAt }),
      ...(run === undefined ? {} : { workflow_id: run.workflowId, run_id: run.runId }),
    };
    if (Object.keys(changes).length === 0) return;
    await db.updateTable('consolidations').set(changes).where('id', '=', id).execute();
  },

  async remove(id) {
    await db.deleteFrom('consolidations').where('id', '=', id).execute();
  },
});

const toRecord = (row: ConsolidationTable): Consolidation =>
  consolidation.parse({
    id: row.id,
    vm: { uuid: row.vm_uuid, name: row.vm_name },
    backupId: row.backup_id,
    host: row.host,
    repository: row.repository,
    state: row.state,
    rateBytesPerSecond: row.rate_bytes_per_second,
    plan: JSON.parse(row.plan) as unknown,
    prepared: JSON.parse(row.prepared) as unknown,
    damage: row.damage,
    verifiedAt: row.verified_at,
    workflowId: row.workflow_id,
    runId: row.run_id,
    since: row.since,
  });
