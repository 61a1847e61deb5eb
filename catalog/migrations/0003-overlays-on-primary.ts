import { sql } from 'kysely';
import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Which overlay of which disk belongs to which backup, for strategy `snapshot`. */
export const overlaysOnPrimary = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    await db.schema
      .createTable('deltas')
      .addColumn('vm_uuid', text, (column) => column.notNull())
      .addColumn('backup_id', text, (column) => column.notNull())
      .addColumn('target', text, (column) => column.notNull())
      .addColumn('path', text, (column) => column.notNull())
      .addColumn('frozen_path', text, (column) => column.notNull())
      .addColumn('frozen_format', text, (column) => column.notNull())
      .addColumn('frozen_stamp', text)
      .addPrimaryKeyConstraint('deltas_primary_key', ['vm_uuid', 'backup_id', 'target'])
      .execute();
  },
});
