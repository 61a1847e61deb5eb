import { sql } from 'kysely';
import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** VMs whose disks depend on a backup after a quick restore. */
export const consolidations = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    const integer = engine === 'postgres' ? 'bigint' : 'integer';
    await db.schema
      .createTable('consolidations')
      .addColumn('id', text, (column) => column.primaryKey().notNull())
      .addColumn('vm_uuid', text, (column) => column.notNull().unique())
      .addColumn('vm_name', text, (column) => column.notNull())
      .addColumn('backup_id', text, (column) => column.notNull())
      .addColumn('host', text, (column) => column.notNull())
      .addColumn('repository', text, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('rate_bytes_per_second', integer)
      .addColumn('plan', text, (column) => column.notNull())
      .addColumn('prepared', text, (column) => column.notNull())
      .addColumn('damage', text)
      .addColumn('verified_at', text)
      .addColumn('workflow_id', text, (column) => column.notNull())
      .addColumn('run_id', text, (column) => column.notNull())
      .addColumn('since', text, (column) => column.notNull())
      .execute();
  },
});
