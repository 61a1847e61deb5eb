import { sql } from 'kysely';
import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** What happened, also for machines: an event's details; and what a disk's image was at the backup. Both JSON. */
export const detailsOfEvents = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    await db.schema.alterTable('events').addColumn('detail', text).execute();
    await db.schema.alterTable('backup_disks').addColumn('source_mark', text).execute();
  },
});
