import { sql } from 'kysely';
import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Who validates a backup, what its state was before, and when it proved to boot. */
export const validations = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    const integer = engine === 'postgres' ? 'bigint' : 'integer';
    for (const name of ['validation_before', 'validation_workflow_id', 'validation_run_id', 'booted_at']) {
      await db.schema.alterTable('backups').addColumn(name, text).execute();
    }
    await db.schema.alterTable('backups').addColumn('boot_ms', integer).execute();
  },
});
