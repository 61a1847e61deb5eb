import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCatalog, openDatabase } from '../../catalog/open-catalog.ts';
import { tempDir } from '../support/temp.ts';
import type { TempDir } from '../support/temp.ts';
import { catalogSuite } from './catalog-suite.ts';

describe('catalog on SQLite', () => {
  let folder: TempDir;
  let files = 0;
  const newUrl = (): string => `sqlite:${join(folder.path, `catalog-${++files}.sqlite`)}`;
  beforeAll(async () => {
    folder = await tempDir('hf-catalog');
  });
  afterAll(async () => await folder[Symbol.asyncDispose]());

  catalogSuite(() => Promise.resolve(newUrl()));

  it('refuses a relative path, because each process would have a catalog of its own', async () => {
    await expect(openCatalog('sqlite:catalog.sqlite')).rejects.toThrow('must be absolute');
  });

  it('makes the folders above its file', async () => {
    await using catalog = await openCatalog(`sqlite:${join(folder.path, 'a', 'b', 'catalog.sqlite')}`);
    expect(await catalog.hosts.list()).toEqual([]);
  });

  it('lives in memory for tests', async () => {
    await using catalog = await openCatalog('sqlite::memory:');
    expect(await catalog.hosts.upsert({ name: 'kvm-1' })).toMatchObject({ name: 'kvm-1' });
  });

  it('commits durably: write-ahead log, every commit synced', async () => {
    const { db } = await openDatabase(newUrl());
    const pragmas = await Promise.all(
      ['journal_mode', 'synchronous', 'foreign_keys', 'busy_timeout'].map(async (name) => {
        const { rows } = await sql`pragma ${sql.raw(name)}`.execute(db);
        return Object.values(rows[0] as object)[0] as unknown;
      }),
    );
    await db.destroy();
    expect(pragmas).toEqual(['wal', 2, 1, 5_000]); // 2 is FULL
  });
});
