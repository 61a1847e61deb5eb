// hold-lock.ts URL [MS]: changes a host inside the dispatcher's transaction, says `inside`, and stays there; commits
// after MS milliseconds if given.
import { setTimeout as delay } from 'node:timers/promises';
import { openDatabase } from '../../../catalog/open-catalog.ts';
import { oneAtATime } from '../../../catalog/transaction.ts';

const [url = '', ms] = process.argv.slice(2);
const database = await openDatabase(url);
await oneAtATime(database, 'admissions', async (trx) => {
  await trx.updateTable('hosts').set({ slots: 99 }).execute();
  console.log('inside');
  await delay(ms === undefined ? 2 ** 30 : Number(ms));
});
await database.db.destroy();
