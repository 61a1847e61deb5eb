import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Encryption, where its identity is, and immutability: JSON, null for a plain repository. */
export const settingsOfRepositories = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    await db.schema.alterTable('repositories').addColumn('settings', text).execute();
  },
});
