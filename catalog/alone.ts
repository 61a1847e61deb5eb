import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import type { Database } from './database.ts';
import { isWorthRepeating, LOCK_SPACE, SUBJECTS } from './transaction.ts';

const ASK_AGAIN_MS = 50;

/** Of catalogs in memory, which no other process has. */
const inMemory = new WeakMap<Database, Promise<unknown>>();

/**
 * Runs `work` alone among all that is run so, in all processes with this catalog, for as long as it takes. Unlike a transaction it
 * keeps nobody from the tables. A process that ends lets the next one in: PostgreSQL gives up the lock with its connection, and
 * the operating system that of a file beside the SQLite catalog.
 */
export async function alone<T>(database: Database, work: () => Promise<T>): Promise<T> {
  if (database.engine === 'postgres') return await withAdvisoryLock(database, work);
  if (database.path !== undefined) return await withLockFile(`${database.path}-repositories`, work);
  const before = inMemory.get(database) ?? Promise.resolve();
  const result = before.then(work);
  inMemory.set(database, Promise.allSettled([result])); // who asked is told of its failure
  return await result;
}

async function withAdvisoryLock<T>({ db }: Database, work: () => Promise<T>): Promise<T> {
  const lock = sql`${sql.lit(LOCK_SPACE)}, ${sql.lit(SUBJECTS.repositories)}`;
  return await db.connection().execute(async (connection) => {
    await sql`select pg_advisory_lock(${lock})`.execute(connection);
    try {
      return await work();
    } finally {
      await sql`select pg_advisory_unlock(${lock})`.execute(connection);
    }
  });
}

/** An empty database, whose lock SQLite keeps as the system's: gone with the process, however that ends. */
async function withLockFile<T>(path: string, work: () => Promise<T>): Promise<T> {
  const file = new DatabaseSync(path, { timeout: 0 });
  try {
    for (;;) {
      try {
        file.exec('begin exclusive');
        break;
      } catch (error) {
        if (!isWorthRepeating(error)) throw error;
        await delay(ASK_AGAIN_MS);
      }
    }
    return await work();
  } finally {
    file.close();
  }
}
