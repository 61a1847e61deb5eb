import { sql } from 'kysely';
import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Which operation writes the files of a stored backup anew, and why the last one failed. */
export const rewrites = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    for (const name of [
      'rewrite_id',
      'rewrite_operation',
      'rewrite_workflow_id',
      'rewrite_run_id',
      'rewrite_failure',
    ]) {
      await db.schema.alterTable('backups').addColumn(name, text).execute();
    }
  },
});
