import { repositoryLocation, repositorySettings } from '../schemas/repository.ts';
import type { RepositoryRecord } from '../schemas/repository.ts';
import { HoldfastError } from '../schemas/failures.ts';
import { alone } from './alone.ts';
import type { RepositoryQueries } from './contract.ts';
import type { Database, RepositoryTable } from './database.ts';

export const repositoryQueries = (database: Database): RepositoryQueries => {
  const { db } = database;
  return {
    async list() {
      return (await db.selectFrom('repositories').selectAll().orderBy('name').execute()).map(toRecord);
    },

    async find(name) {
      const row = await db.selectFrom('repositories').selectAll().where('name', '=', name).executeTakeFirst();
      return row && toRecord(row);
    },

    async add({ name, id, location, slots, settings }) {
      await db
        .insertInto('repositories')
        .values({
          name,
          id,
          location: JSON.stringify(location),
          slots,
          created_at: new Date().toISOString(),
          settings: settings === undefined ? null : JSON.stringify(settings),
        })
        .onConflict((conflict) => conflict.doNothing())
        .execute();
      const holders = await db
        .selectFrom('repositories')
        .selectAll()
        .where((where) => where.or([where('name', '=', name), where('id', '=', id)]))
        .execute();
      const [holder] = holders;
      if (holder === undefined) throw new Error(`repository ${name} was removed while it was being added`);
      if (holder.name !== name)
        throw new HoldfastError('InvalidRequest', `repository ${id} is known already, as ${holder.name}`);
      if (holders.length > 1 || holder.id !== id) {
        throw new HoldfastError(
          'InvalidRequest',
          `a repository named ${name} is known already, with another id: ${holder.id}`,
        );
      }
      return toRecord(holder);
    },

    async changeSettings(name, settings) {
      await db
        .updateTable('repositories')
        .set({ settings: JSON.stringify(settings) })
        .where('name', '=', name)
        .execute();
    },

    async remove(name) {
      await db.deleteFrom('repositories').where('name', '=', name).execute();
    },

    alone: (change) => alone(database, change),
  };
};

const toRecord = (row: RepositoryTable): RepositoryRecord => ({
  name: row.name,
  id: row.id,
  location: repositoryLocation.parse(JSON.parse(row.location)),
  slots: row.slots,
  createdAt: row.created_at,
  ...(row.settings === null ? {} : { settings: repositorySettings.parse(JSON.parse(row.settings)) }),
});
