/**
 * How soon a VM answers that runs on a backup in a bucket (quick restore, the gateway), beside the same VM on a disk of its own:
 * from its start to the guest agent's answer, and how long the guest then reads a disk of 96 MiB. bench/README.md, "Gateway".
 *
 *   node bench/boot.ts [--rounds 3]
 */
import { parseArgs } from 'node:util';
import { setTimeout as delay } from 'node:timers/promises';
import { findGuest, guestSha256, waitForAgent, type Guest } from '../test/support/guest.ts';
import { startS3Server } from '../test/support/s3-server.ts';
import { MiB, PatternedDisk, startTestBed } from '../test/support/test-bed.ts';
import { median } from './harness.ts';

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '3' } } });
const DATA_BYTES = 96 * MiB;

interface Times {
  answerSeconds: number;
  readSeconds: number;
}

await using server = await startS3Server('versitygw');
await using bed = await startTestBed('kvm-boot');
const { libvirt } = bed.host;
const { bucket, prefix } = await server.newPlace();
await bed.holdfast.json(
  ...['repo', 'add', `s3://${bucket}/${prefix}`, '--name', 'far', '--path-style', '--endpoint', server.endpoint],
  ...['--credentials-file', server.credentialsFile],
);
const guest = await bed.guest({
  name: 'origin',
  disks: [{ target: 'vda', sizeBytes: DATA_BYTES, format: 'qcow2', fs: 'none' }],
});
await libvirt.create(guest.dom);
const vda = new PatternedDisk(0, DATA_BYTES);
for (let at = 0; at < DATA_BYTES; at += 8 * MiB) await vda.write(guest, at, 8 * MiB, 1 + at / MiB);
const { id } = await bed.take('origin', { repository: 'far' });
await libvirt.destroy(guest.dom);

async function isRunning(name: string): Promise<Guest | undefined> {
  const dom = await libvirt.lookupByName(name);
  if (dom === undefined || (await libvirt.state(dom)).state !== 'running') return undefined;
  return await findGuest(bed.host, name);
}

async function timesFromStart(name: string): Promise<Times> {
  let running = await isRunning(name);
  for (; running === undefined; running = await isRunning(name)) await delay(20);
  const start = performance.now();
  await waitForAgent(running);
  const answered = performance.now();
  if ((await guestSha256(running, '/dev/vda')) !== vda.sha256) throw new Error(`${name} has other bytes`);
  const read = performance.now();
  await libvirt.destroy(running.dom);
  return { answerSeconds: (answered - start) / 1000, readSeconds: (read - answered) / 1000 };
}

const found: Record<'local' | 'bucket', Times[]> = { local: [], bucket: [] };
for (let round = 0; round < Number(values.rounds); round += 1) {
  const local = `local-${round}`;
  await bed.restore(id, { as: local });
  await libvirt.create((await findGuest(bed.host, local)).dom);
  found.local.push(await timesFromStart(local));
  const restoring = bed.restore(id, { as: `quick-${round}`, quick: true, rateMBps: 1 });
  found.bucket.push(await timesFromStart(`quick-${round}`));
  await restoring;
}
for (const what of ['answerSeconds', 'readSeconds'] as const) {
  const [local, far] = [found.local, found.bucket].map((times) => times.map((each) => each[what]));
  const text = (seconds: number[] = []): string =>
    `${median(seconds).toFixed(2)} s [${seconds.map((each) => each.toFixed(2)).join(' ')}]`;
  console.log(
    `${what}: bucket ${text(far)}, local ${text(local)}, ${(median(far ?? []) / median(local ?? [])).toFixed(2)}`,
  );
}
