import { inspect } from 'node:util';
import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { openCatalog, openDatabase } from '../../catalog/open-catalog.ts';
import { isWorthRepeating, oneAtATime } from '../../catalog/transaction.ts';
import { after } from './records.ts';

/** How every catalog keeps concurrent writers of one process apart, and what it refuses to open. */
export function transactionsSuite(newUrl: () => Promise<string>): void {
  describe('transactions', () => {
    it('keeps the statements of concurrent transactions of one process apart', async () => {
      const database = await openDatabase(await newUrl());
      await database.db.insertInto('hosts').values(HOST).execute();
      await Promise.all(
        Array.from({ length: 40 }, () =>
          oneAtATime(database, 'vms', async (trx) => {
            const { slots } = await trx.selectFrom('hosts').select('slots').executeTakeFirstOrThrow();
            await sql`select 1`.execute(trx);
            await trx
              .updateTable('hosts')
              .set({ slots: slots + 1 })
              .execute();
          }),
        ),
      );
      expect(await database.db.selectFrom('hosts').select('slots').execute()).toEqual([{ slots: 41 }]);
      await database.db.destroy();
    });

    it('leaves nothing of a transaction that fails, and repeats one the database asks to repeat', async () => {
      const database = await openDatabase(await newUrl());
      const attempt = async (failures: Error[]) => {
        let attempts = 0;
        await oneAtATime(database, 'vms', async (trx) => {
          await trx.insertInto('hosts').values(HOST).execute();
          attempts++;
          const failure = failures.shift();
          if (failure !== undefined) throw failure;
        });
        return attempts;
      };
      const deadlock = () => Object.assign(new Error('deadlock detected'), { code: '40P01' });
      await expect(attempt([new Error('other')])).rejects.toThrow('other');
      expect(await database.db.selectFrom('hosts').selectAll().execute()).toEqual([]);
      await expect(attempt([1, 2, 3, 4, 5, 6].map(deadlock))).rejects.toThrow('deadlock');
      expect(await attempt([deadlock(), Object.assign(new Error(), { code: '40001' })])).toBe(3);
      expect(await database.db.selectFrom('hosts').selectAll().execute()).toHaveLength(1);
      expect(isWorthRepeating(Object.assign(new Error('busy'), { errcode: 517 }))).toBe(true); // SQLITE_BUSY_SNAPSHOT
      expect(isWorthRepeating(Object.assign(new Error('full'), { errcode: 13 }))).toBe(false);
      expect(isWorthRepeating('40001')).toBe(false);
      await database.db.destroy();
    });

    it('refuses a catalog that a newer version has migrated', async () => {
      const url = await newUrl();
      const { db } = await openDatabase(url);
      await sql`insert into kysely_migration (name, timestamp) values ('9999-later', ${after(9e8)})`.execute(db);
      await db.destroy();
      await expect(openCatalog(url)).rejects.toThrow('newer version of Holdfast');
    });

    it('names no password when the URL is wrong or nobody answers', async () => {
      for (const url of ['postgres://u:s3cret@[broken', 'mysql://u:s3cret@h/d', 'postgres://u:s3cret@127.0.0.1:1/d']) {
        const error: unknown = await openCatalog(url).then(
          () => undefined,
          (reason: unknown) => reason,
        );
        expect(error).toBeInstanceOf(Error);
        expect(inspect(error, { depth: 10, showHidden: true })).not.toContain('s3cret');
      }
    });
  });
}

const HOST = {
  name: 'kvm-1',
  slots: 1,
  libvirt_address: null,
  libvirt_version: null,
  qemu_version: null,
  last_seen_at: null,
};
