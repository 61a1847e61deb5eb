import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Which backup an admitted restore restores: the backup counts as `Restoring` as long as one does. */
export const backupsBeingRestored = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    await db.schema.alterTable('admissions').addColumn('restores_backup_id', text).execute();
  },
});
