import { sql } from 'kysely';
import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Schedules, their runs, and what became of each VM in each run. */
export const schedules = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    const integer = engine === 'postgres' ? 'bigint' : 'integer';
    await db.schema
      .createTable('schedules')
      .addColumn('name', text, (column) => column.primaryKey().notNull())
      .addColumn('settings', text, (column) => column.notNull())
      .addColumn('created_at', text, (column) => column.notNull())
      .addColumn('checked_until', text, (column) => column.notNull())
      .execute();

    await db.schema
      .createTable('schedule_runs')
      .addColumn('id', text, (column) => column.primaryKey().notNull())
      .addColumn('schedule', text, (column) => column.notNull())
      .addColumn('kind', text, (column) => column.notNull())
      .addColumn('scheduled_at', text, (column) => column.notNull())
      .addColumn('started_at', text)
      .addColumn('ended_at', text)
      .addColumn('workflow_id', text)
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('reason', text)
      .execute();
    await db.schema
      .createIndex('schedule_runs_of_schedule')
      .on('schedule_runs')
      .columns(['schedule', 'scheduled_at'])
      .execute();
    await db.schema.createIndex('schedule_runs_newest').on('schedule_runs').column('scheduled_at').execute();

    await db.schema
      .createTable('schedule_outcomes')
      .addColumn('run_id', text, (column) => column.notNull().references('schedule_runs.id').onDelete('cascade'))
      .addColumn('position', integer, (column) => column.notNull())
      .addColumn('vm_uuid', text)
      .addColumn('vm_name', text, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('reason', text)
      .addColumn('backup_id', text)
      .addColumn('workflow_id', text)
      .addColumn('workflow_run_id', text)
      .addColumn('started_at', text)
      .addColumn('ended_at', text)
      .addPrimaryKeyConstraint('schedule_outcomes_key', ['run_id', 'position'])
      .execute();
    await db.schema
      .createIndex('schedule_outcomes_of_vm')
      .on('schedule_outcomes')
      .columns(['vm_uuid', 'run_id'])
      .execute();
  },
});
