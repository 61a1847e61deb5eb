import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase } from '../../catalog/open-catalog.ts';
import { missingPostgres, startPostgres } from '../support/postgres.ts';
import type { PostgresCluster } from '../support/postgres.ts';
import { catalogSuite } from './catalog-suite.ts';

const missing = missingPostgres();
if (missing !== undefined) console.warn(`skipped, the catalog on PostgreSQL: ${missing}`);

describe.skipIf(missing !== undefined)(`catalog on PostgreSQL${missing ? ` (skipped: ${missing})` : ''}`, () => {
  let cluster: PostgresCluster;
  beforeAll(async () => {
    cluster = await startPostgres();
  });
  afterAll(async () => await cluster[Symbol.asyncDispose]());

  catalogSuite(() => cluster.createDatabase());

  it('survives the loss of its idle connections', async () => {
    const url = await cluster.createDatabase();
    const [one, other] = [await openDatabase(url), await openDatabase(url)];
    await sql`select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and pid <> pg_backend_pid()`.execute(other.db);
    await expect.poll(async () => (await sql`select 1`.execute(one.db)).rows.length).toBe(1);
    await Promise.all([one.db.destroy(), other.db.destroy()]);
  });
});
