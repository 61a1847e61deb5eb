import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { expectVmClean } from '../support/clean-vm.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { endProcess } from '../support/processes.ts';
import { run } from '../support/run.ts';
import {
  expectStored,
  kindsOf,
  MiB,
  PatternedDisk,
  startTestBed,
  type TestBed,
  liveCheckpoints,
} from '../support/test-bed.ts';

const HOLDFAST = join(import.meta.dirname, '..', '..', 'bin', 'holdfast');

let bed: TestBed;
let other: KvmHost;
let workerPid: number | undefined;
beforeAll(async () => {
  bed = await startTestBed('kvm-src');
  other = await startKvmHost({ name: 'kvm-dst', dir: join(bed.dir, 'o') });
  const worker = spawn(HOLDFAST, ['worker', 'host', '--host', 'kvm-dst', '--libvirt', other.socketPath], {
    env: { ...process.env, HOLDFAST_DATA: bed.holdfast.dataDir },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  workerPid = worker.pid;
  await Promise.race([once(worker.stdout, 'data'), once(worker.stderr, 'data')]);
});
afterAll(async () => {
  if (workerPid !== undefined) await endProcess(workerPid, 30_000);
  await other[Symbol.asyncDispose]();
  await bed[Symbol.asyncDispose]();
});

it('a VM that was migrated goes on with its chain on the other host', async () => {
  const guest = await bed.guest({
    name: 'traveller',
    disks: [{ target: 'vda', sizeBytes: 16 * MiB, format: 'qcow2', fs: 'none' }],
  });
  await bed.host.libvirt.create(guest.dom);
  const vda = new PatternedDisk(0, 16 * MiB);
  await vda.write(guest, 0, 4 * MiB, 0x41);
  const full = await bed.take('traveller');
  await vda.write(guest, MiB, MiB, 0x42);
  const second = await bed.take('traveller'); // its checkpoint was made as the child of one that is gone since
  expect(second).toMatchObject({ type: 'incremental', host: 'kvm-src' });
  await vda.write(guest, 8 * MiB, 64 * 1024, 0x43);

  const uri = (socketPath: string): string => `qemu+unix:///system?socket=${socketPath}`;
  const port = 49_200 + (process.pid % 700);
  await run('virsh', [
    ...['-c', uri(bed.host.socketPath), 'migrate', 'traveller', uri(other.socketPath)],
    ...['--live', '--persistent', '--unsafe', '--migrateuri', `tcp://127.0.0.1:${port}`],
  ]);
  const there = { ...guest, host: other, libvirt: other.libvirt };
  expect(await other.libvirt.checkpointList(guest.dom)).toEqual([]);
  await vda.write(there, 12 * MiB, 64 * 1024, 0x44);

  const third = await bed.take('traveller');
  expect(third).toMatchObject({ type: 'incremental', host: 'kvm-dst', parentId: second.id, chainId: full.id });
  expect(kindsOf(third)).toEqual({ vda: 'incremental' });
  expect(third.disks[0]?.readBytes).toBeLessThanOrEqual(1.02 * 2 * 64 * 1024);
  await expectStored(bed.holdfast, third, { vda });
  await expectVmClean(there, 'traveller', {
    activeImages: { vda: guest.disks[0]?.path ?? '' },
    checkpoints: liveCheckpoints(third),
  });
});
