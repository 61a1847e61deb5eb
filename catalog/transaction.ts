import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import type { Transaction } from 'kysely';
import type { Database, Tables } from './database.ts';

/** Writers of one subject come one after the other; the numbers are keys of PostgreSQL advisory locks. */
export const SUBJECTS = { admissions: 1, vms: 2, backups: 3, schedules: 9, repositories: 10 } as const;
/** First half of the advisory lock's key: "hold" in ASCII, so that other programs' locks stay clear of ours. */
export const LOCK_SPACE = 0x686f6c64;
const ATTEMPTS = 5;

/**
 * Runs `work` in a transaction, alone among those of the same subject, in all processes. On SQLite one writer at a
 * time is the rule anyway; on PostgreSQL an advisory lock makes it so. Everything in `work` goes through `trx`:
 * a query past it would wait for the connection that `work` itself holds. `work` is repeated when the database asks
 * for it (serialization failure, deadlock, SQLite still busy after its own patience), at most five times in all.
 */
export async function oneAtATime<T>(
  { db, engine }: Database,
  subject: keyof typeof SUBJECTS,
  work: (trx: Transaction<Tables>) => Promise<T>,
): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      // Read committed: every statement sees what was there when the lock was had, not when the transaction began.
      return await db
        .transaction()
        .setIsolationLevel('read committed')
        .execute(async (trx) => {
          if (engine === 'postgres') {
            await sql`select pg_advisory_xact_lock(${sql.lit(LOCK_SPACE)}, ${sql.lit(SUBJECTS[subject])})`.execute(trx);
          }
          return await work(trx);
        });
    } catch (error) {
      if (attempt === ATTEMPTS || !isWorthRepeating(error)) throw error;
      await delay(Math.random() * 20 * 2 ** attempt);
    }
  }
}

/** PostgreSQL: serialization_failure, deadlock_detected. SQLite: SQLITE_BUSY with all its extended codes. */
export function isWorthRepeating(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code, errcode } = error as { code?: unknown; errcode?: unknown };
  return code === '40001' || code === '40P01' || isSqliteBusy(errcode);
}

const isSqliteBusy = (errcode: unknown): boolean => typeof errcode === 'number' && (errcode & 0xff) === 5;
