import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Backups mirrored to other repositories, each copy with a state and a parent of its own. */
export const copiesOfBackups = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    const integer = engine === 'postgres' ? 'bigint' : 'integer';
    await db.schema
      .createTable('backup_copies')
      .addColumn('backup_id', text, (column) => column.notNull().references('backups.id').onDelete('cascade'))
      .addColumn('repository', text, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('type', text, (column) => column.notNull())
      .addColumn('parent_id', text)
      .addColumn('stored_bytes', integer, (column) => column.notNull())
      .addColumn('disks', text, (column) => column.notNull())
      .addColumn('copied_at', text)
      .addColumn('verified_at', text)
      .addColumn('damage', text)
      .addColumn('failure_type', text)
      .addColumn('failure_message', text)
      .addColumn('operation_id', text)
      .addColumn('workflow_id', text)
      .addColumn('run_id', text)
      .addPrimaryKeyConstraint('backup_copies_key', ['backup_id', 'repository'])
      .execute();
    await db.schema.createIndex('backup_copies_in').on('backup_copies').columns(['repository', 'state']).execute();
  },
});
