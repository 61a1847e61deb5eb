// race-for-admission.ts URL WITNESS COUNT VM…: runs COUNT operations one after the other, each on a random VM, chain, host
// and repository. What it does between grant and release it writes to the witness, a line each, appended at once.
import { appendFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { openCatalog } from '../../../catalog/open-catalog.ts';
import { admissionRequest } from '../records.ts';

const [url = '', witness = '', count = '', ...vms] = process.argv.slice(2);
const one = <T>(items: readonly T[]): T => items[Math.floor(Math.random() * items.length)]!;
await using catalog = await openCatalog(url);
for (let i = 0; i < Number(count); i++) {
  const request = admissionRequest({
    vmUuid: one(vms),
    host: one(['kvm-1', 'kvm-2']),
    repository: one(['main', 'offsite']),
    tenant: one(['blue', 'green']),
    priority: one([0, 3]),
    chain: { id: one(vms.slice(0, 2)), mode: one(['shared', 'exclusive'] as const) },
  });
  while (!(await catalog.admissions.request(request)).granted) await delay(5);
  const note = (event: string): void => appendFileSync(witness, `${JSON.stringify({ event, ...request })}\n`);
  note('start');
  await delay(Math.random() * 5);
  note('end');
  await catalog.admissions.release(request.operationId);
}
