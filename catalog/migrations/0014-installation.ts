import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Who this installation is: one row with an id, by which repositories know their owner. */
export const installationId = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    await db.schema
      .createTable('installation')
      .addColumn('only', 'integer', (column) => column.primaryKey().check(sql`"only" = 1`))
      .addColumn('id', text, (column) => column.notNull())
      .execute();
  },
});
