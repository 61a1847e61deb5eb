import { offering } from '../schemas/catalog.ts';
import type { OfferingQueries } from './contract.ts';
import type { Database } from './database.ts';

export const offeringQueries = ({ db }: Database): OfferingQueries => ({
  async list() {
    const rows = await db.selectFrom('offerings').selectAll().orderBy('name').execute();
    return rows.map((row) => offering.parse(JSON.parse(row.settings)));
  },

  async find(name) {
    const row = await db.selectFrom('offerings').selectAll().where('name', '=', name).executeTakeFirst();
    return row && offering.parse(JSON.parse(row.settings));
  },

  async upsert(given) {
    const settings = JSON.stringify(given);
    await db
      .insertInto('offerings')
      .values({ name: given.name, settings })
      .onConflict((conflict) => conflict.column('name').doUpdateSet({ settings }))
      .execute();
  },

  async remove(name) {
    await db.deleteFrom('offerings').where('name', '=', name).execute();
  },
});
