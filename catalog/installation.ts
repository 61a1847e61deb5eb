import { randomUUID } from 'node:crypto';
import type { Database } from './database.ts';

/** Chosen when it is first asked for; of two processes that ask at once both get the same. */
export async function installationOf({ db }: Database): Promise<string> {
  await db
    .insertInto('installation')
    .values({ only: 1, id: randomUUID() })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const { id } = await db.selectFrom('installation').select('id').executeTakeFirstOrThrow();
  return id;
}
