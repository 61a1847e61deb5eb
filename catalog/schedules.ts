import { sql } from 'kysely';
import { schedule as scheduleSchema, type ScheduleOutcome, type ScheduleRun } from '../schemas/schedule.ts';
import { batches } from './batches.ts';
import type { ScheduleQueries, ScheduleRecord } from './contract.ts';
import type { Database, ScheduleOutcomeTable, ScheduleRunTable, ScheduleTable } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** Schedules with all that became of their runs. Temporal keeps the time; this is what people are told. */
export const scheduleQueries = (database: Database): ScheduleQueries => {
  const { db } = database;
  const outcomeRows = () =>
    db
      .selectFrom('schedule_outcomes')
      .innerJoin('schedule_runs', 'schedule_runs.id', 'schedule_outcomes.run_id')
      .selectAll('schedule_outcomes')
      .select(['schedule_runs.schedule', 'schedule_runs.kind', 'schedule_runs.scheduled_at']);
  return {
    async list() {
      return (await db.selectFrom('schedules').selectAll().orderBy('name').execute()).map(toRecord);
    },

    async find(name) {
      const row = await db.selectFrom('schedules').selectAll().where('name', '=', name).executeTakeFirst();
      return row && toRecord(row);
    },

    async put(given) {
      const settings = JSON.stringify(given);
      const now = new Date().toISOString();
      const row = await db
        .insertInto('schedules')
        .values({ name: given.name, settings, created_at: now, checked_until: now })
        .onConflict((conflict) => conflict.column('name').doUpdateSet({ settings }))
        .returningAll()
        .executeTakeFirstOrThrow();
      return toRecord(row);
    },

    async remove(name) {
      await db.deleteFrom('schedules').where('name', '=', name).execute();
    },

    async setCheckedUntil(name, time) {
      await db
        .updateTable('schedules')
        .set({ checked_until: new Date(time).toISOString() })
        .where('name', '=', name)
        .execute();
    },

    async beginRun(run, vms) {
      await oneAtATime(database, 'schedules', async (trx) => {
        const added = await trx
          .insertInto('schedule_runs')
          .values(toRow(run))
          .onConflict((conflict) => conflict.column('id').doNothing())
          .returning('id')
          .executeTakeFirst();
        if (added === undefined) return;
        await trx
          .deleteFrom('schedule_runs')
          .where('schedule', '=', run.schedule)
          .where('scheduled_at', '=', run.scheduledAt)
          .where('started_at', 'is', null)
          .execute();
        const rows = vms.map(({ vm, state, reason, backupId }, position) => ({
          run_id: run.id,
          position,
          vm_uuid: vm.uuid,
          vm_name: vm.name,
          state,
          reason,
          backup_id: backupId,
          workflow_id: null,
          workflow_run_id: null,
          started_at: null,
          ended_at: state === 'pending' ? null : run.startedAt,
        }));
        for (const some of batches(rows, 500)) await trx.insertInto('schedule_outcomes').values(some).execute();
      });
    },

    async noteMissed(run) {
      return await oneAtATime(database, 'schedules', async (trx) => {
        const known = await trx
          .selectFrom('schedule_runs')
          .select('id')
          .where('schedule', '=', run.schedule)
          .where('scheduled_at', '=', run.scheduledAt)
          .executeTakeFirst();
        if (known !== undefined) return false;
        await trx.insertInto('schedule_runs').values(toRow(run)).execute();
        return true;
      });
    },

    async findRun(id) {
      const row = await db.selectFrom('schedule_runs').selectAll().where('id', '=', id).executeTakeFirst();
      return row && toRun(row);
    },

    async endRun(id, state, reason, endedAt) {
      await db
        .updateTable('schedule_runs')
        .set({ state, reason, ended_at: endedAt })
        .where('id', '=', id)
        .where('state', '=', 'running')
        .execute();
    },

    async runs({ schedule, since, states, limit } = {}) {
      let query = db.selectFrom('schedule_runs').selectAll().orderBy('scheduled_at', 'desc').orderBy('id');
      if (schedule !== undefined) query = query.where('schedule', '=', schedule);
      if (since !== undefined) query = query.where('scheduled_at', '>=', since);
      if (states !== undefined) query = query.where('state', 'in', states);
      if (limit !== undefined) query = query.limit(limit);
      return (await query.execute()).map(toRun);
    },

    async outcomes(runId, { states, after, limit } = {}) {
      let query = outcomeRows().where('run_id', '=', runId).orderBy('position');
      if (states !== undefined) query = query.where('schedule_outcomes.state', 'in', states);
      if (after !== undefined) query = query.where('position', '>', after);
      if (limit !== undefined) query = query.limit(limit);
      return (await query.execute()).map(toOutcome);
    },

    async outcomesSince(since, states) {
      const rows = await outcomeRows()
        .where('schedule_runs.scheduled_at', '>=', since)
        .where('schedule_outcomes.state', 'in', states)
        .orderBy('schedule_runs.scheduled_at', 'desc')
        .orderBy('position')
        .execute();
      return rows.map(toOutcome);
    },

    async lastOutcomes(schedule) {
      const rows = await db
        .selectFrom(
          outcomeRows()
            .select(
              sql<number>`row_number() over (partition by coalesce(vm_uuid, vm_name) order by scheduled_at desc, position)`.as(
                'age',
              ),
            )
            .where('schedule_runs.schedule', '=', schedule)
            .where('schedule_outcomes.state', '!=', 'pending')
            .as('known'),
        )
        .selectAll()
        .where('age', '=', 1)
        .orderBy('vm_name')
        .execute();
      return rows.map(toOutcome);
    },

    async setOutcome(runId, position, change) {
      await db
        .updateTable('schedule_outcomes')
        .set({
          state: change.state,
          ...(change.reason === undefined ? {} : { reason: change.reason }),
          ...(change.backupId === undefined ? {} : { backup_id: change.backupId }),
          ...(change.workflowId === undefined ? {} : { workflow_id: change.workflowId }),
          ...(change.workflowRunId === undefined ? {} : { workflow_run_id: change.workflowRunId }),
          ...(change.startedAt === undefined ? {} : { started_at: change.startedAt }),
          ...(change.endedAt === undefined ? {} : { ended_at: change.endedAt }),
        })
        .where('run_id', '=', runId)
        .where('position', '=', position)
        .execute();
    },

    async settlePending(runId, state, reason, endedAt) {
      await db
        .updateTable('schedule_outcomes')
        .set({ state, reason, ended_at: endedAt })
        .where('run_id', '=', runId)
        .where('state', '=', 'pending')
        .execute();
    },

    async countOutcomes(runId) {
      const rows = await db
        .selectFrom('schedule_outcomes')
        .select((column) => ['state', column.fn.countAll<number>().as('count')])
        .where('run_id', '=', runId)
        .groupBy('state')
        .execute();
      return Object.fromEntries(rows.map(({ state, count }) => [state, count]));
    },

    async prune(before) {
      await db.deleteFrom('schedule_runs').where('scheduled_at', '<', before).execute();
    },
  };
};

const toRecord = (row: ScheduleTable): ScheduleRecord => ({
  schedule: scheduleSchema.parse(JSON.parse(row.settings)),
  createdAt: row.created_at,
  checkedUntil: row.checked_until,
});

const toRow = (run: ScheduleRun): ScheduleRunTable => ({
  id: run.id,
  schedule: run.schedule,
  kind: run.kind,
  scheduled_at: run.scheduledAt,
  started_at: run.startedAt,
  ended_at: run.endedAt,
  workflow_id: run.workflowId,
  state: run.state,
  reason: run.reason,
});

const toRun = (row: ScheduleRunTable): ScheduleRun => ({
  id: row.id,
  schedule: row.schedule,
  kind: row.kind,
  scheduledAt: row.scheduled_at,
  startedAt: row.started_at,
  endedAt: row.ended_at,
  workflowId: row.workflow_id,
  state: row.state,
  reason: row.reason,
});

const toOutcome = (
  row: ScheduleOutcomeTable & Pick<ScheduleRunTable, 'schedule' | 'kind' | 'scheduled_at'>,
): ScheduleOutcome => ({
  runId: row.run_id,
  schedule: row.schedule,
  kind: row.kind,
  scheduledAt: row.scheduled_at,
  position: row.position,
  vm: { uuid: row.vm_uuid, name: row.vm_name },
  state: row.state,
  reason: row.reason,
  backupId: row.backup_id,
  workflowId: row.workflow_id,
  workflowRunId: row.workflow_run_id,
  startedAt: row.started_at,
  endedAt: row.ended_at,
});
