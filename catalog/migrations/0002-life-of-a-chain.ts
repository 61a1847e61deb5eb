import { sql } from 'kysely';
import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** What the life of a backup after it was taken needs: how and for what it was taken, pins, validation, damage. */
export const lifeOfAChain = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    const integer = engine === 'postgres' ? 'bigint' : 'integer';
    const add = (name: string) => db.schema.alterTable('backups').addColumn(name, text).execute();
    for (const name of ['offering', 'requested_by', 'validation_result', 'validated_at', 'damage']) await add(name);
    await db.schema
      .alterTable('backups')
      .addColumn('strategy', text, (column) => column.notNull().defaultTo('checkpoint'))
      .execute();
    await db.schema
      .alterTable('backups')
      .addColumn('pinned', integer, (column) => column.notNull().defaultTo(0))
      .execute();
  },
});
