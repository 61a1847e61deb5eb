// count-alone.ts URL FILE TIMES [stay]: reads the number in a file and writes the next one, a moment later, so often; alone among
// those that do. With `stay` it says `inside` and stays there.
import { readFile, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { openCatalog } from '../../../catalog/open-catalog.ts';

const [url = '', file = '', times = '', stay] = process.argv.slice(2);
await using catalog = await openCatalog(url);
for (let i = 0; i < Number(times); i++) {
  await catalog.repositories.alone(async () => {
    const count = Number(await readFile(file, 'utf8'));
    if (stay !== undefined) {
      console.log('inside');
      await delay(2 ** 30);
    }
    await delay(10);
    await writeFile(file, String(count + 1));
  });
}
