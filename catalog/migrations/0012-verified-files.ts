import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** When the stored bytes of each file were last read and compared with their hashes, and what was wrong with them. */
export const verifiedFiles = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    await db.schema.alterTable('backup_disks').addColumn('verified_at', text).execute();
    await db.schema.alterTable('backup_disks').addColumn('damage', text).execute();
  },
});
