import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { connectLibvirt, parseLibvirtAddress } from '../libvirt/libvirt.ts';
import { thaw } from '../activities/host/thaw.ts';

/**
 * A process of its own beside a host worker: when the worker dies between freeze and thaw, it thaws the guest. It reads
 * lines `frozen <uuid>` and `thawed <uuid>` on stdin; the end of stdin is the end of the worker.
 * Usage: node thaw-guard.ts LIBVIRT-ADDRESS
 */
const PATIENCE_MS = 5 * 60_000;

for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => undefined); // it ends with its worker

const frozen = new Set<string>();
for await (const line of createInterface({ input: process.stdin })) {
  const [state, uuid = ''] = line.split(' ');
  if (state === 'frozen') frozen.add(uuid);
  else frozen.delete(uuid);
}
if (frozen.size > 0) {
  await using libvirt = connectLibvirt(parseLibvirtAddress(process.argv[2] ?? ''));
  await Promise.all([...frozen].map((uuid) => thawGuest(uuid)));

  async function thawGuest(uuid: string): Promise<void> {
    const deadline = Date.now() + PATIENCE_MS;
    while (Date.now() < deadline) {
      try {
        const domain = await libvirt.lookupByUuid(uuid);
        if (domain === undefined || (await thaw(libvirt, domain, 60_000))) return;
      } catch {
        await sleep(1000); // libvirtd is restarting
      }
    }
  }
}
