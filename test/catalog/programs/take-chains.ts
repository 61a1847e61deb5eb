// take-chains.ts URL COUNT: takes backups of its own VM, two disks each and four to a chain, and prints the id of each
// once the catalog has acknowledged it.
import { randomUUID } from 'node:crypto';
import { openCatalog } from '../../../catalog/open-catalog.ts';
import { after, completed, disk, newBackup } from '../records.ts';

const [url = '', count = ''] = process.argv.slice(2);
await using catalog = await openCatalog(url);
const vmUuid = randomUUID();
let chainId = randomUUID();
let parentId: string | null = null;
for (let i = 0; i < Number(count); i++) {
  const position = (i % 4) + 1;
  if (position === 1) [chainId, parentId] = [randomUUID(), null];
  const endOfChain = position === 4;
  const backup = newBackup({ vmUuid, chainId, parentId, position, endOfChain });
  await catalog.backups.create(backup);
  const disks = [disk(), disk({ target: 'vdb', number: 1 })];
  await catalog.backups.complete(completed(backup.id, { instant: after(i), disks }));
  parentId = backup.id;
  console.log(backup.id);
}
