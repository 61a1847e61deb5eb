import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectVmClean, type ExpectedVm } from './clean-vm.ts';
import { qemuImgCheck, qemuImgInfo, sha256OfImage } from './disk-content.ts';
import { createGuest, type Guest, guestSha256, guestShell, startGuest, stopGuest, writePattern } from './guest.ts';
import { type KvmHost, startKvmHost } from './kvm-host.ts';
import { run } from './run.ts';
import { tempDir, type TempDir } from './temp.ts';

const MIB = 2 ** 20;

let temp: TempDir;
let host: KvmHost;
let guest: Guest;
let expected: ExpectedVm;

beforeAll(async () => {
  temp = await tempDir();
  host = await startKvmHost({ name: 'kvm-a', dir: join(temp.path, 'a') });
  guest = await createGuest(host, {
    name: 'web-1',
    dir: join(temp.path, 'images'),
    disks: [
      { target: 'vda', sizeBytes: 64 * MIB, format: 'qcow2', fs: 'ext4' },
      { target: 'vdb', sizeBytes: 33 * MIB + 512, format: 'raw', fs: 'none' },
    ],
  });
  expected = { activeImages: Object.fromEntries(guest.disks.map(({ target, path }) => [target, path])) };
  await startGuest(guest);
});

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  await temp[Symbol.asyncDispose]();
});

describe('expectVmClean', () => {
  const complaint = async (): Promise<string> =>
    await expectVmClean(guest, 'web-1', expected).then(
      () => 'clean',
      (error: unknown) => JSON.stringify((error as { actual?: unknown }).actual),
    );

  it('is content with a VM to which nothing happened', async () => {
    await expectVmClean(guest, 'web-1', expected);
  });

  it('finds a checkpoint, a job, a paused or frozen guest, and a stray file', async () => {
    const { libvirt, dom } = guest;
    const checkpoint =
      '<domaincheckpoint><name>c</name><disks><disk name="vdb" checkpoint="no"/></disks></domaincheckpoint>';
    await libvirt.checkpointCreate(dom, checkpoint);
    expect(await complaint()).toContain('"checkpoints":["c"]');
    await libvirt.checkpointDelete(dom, 'c');

    const scratch = join(temp.path, 'scratch');
    await mkdir(scratch);
    const disks = `<disks><disk name='vda' type='file'><scratch file='${scratch}/vda'/></disk><disk name='vdb' backup='no'/></disks>`;
    const server = `<server transport='unix' socket='${scratch}/sock'/>`;
    await libvirt.backupBegin(dom, `<domainbackup mode='pull'>${server}${disks}</domainbackup>`);
    expect(await complaint()).toContain('"job":"unbounded"');
    await expect(expectVmClean(guest, 'web-1', { ...expected, emptyDirs: [scratch] })).rejects.toThrow();
    await libvirt.abortJob(dom);

    await libvirt.suspend(dom);
    expect(await complaint()).toContain('"state":"paused"');
    await libvirt.resume(dom);

    await libvirt.fsFreeze(dom);
    expect(await complaint()).toContain('"frozen":"frozen"');
    await libvirt.fsThaw(dom);

    const stray = join(temp.path, 'images', 'web-1.overlay');
    await writeFile(stray, '');
    expect(await complaint()).toContain('web-1.overlay');
    await rm(stray);
    expect(await complaint()).toBe('clean');
  });
});

describe('sha256OfImage', () => {
  it('is what the guest reads, whatever the image looks like', async () => {
    await guestShell(guest, 'dd if=/dev/urandom of=/data/file bs=1M count=8; sync');
    await writePattern(guest, { device: 1, offsetBytes: 5 * MIB, lengthBytes: 70_144, pattern: 7 });
    await guestShell(guest, 'umount /data');
    const [vda, vdb] = [await guestSha256(guest, '/dev/vda'), await guestSha256(guest, '/dev/vdb')];
    await stopGuest(guest);
    const [first, second] = guest.disks.map(({ path }) => path) as [string, string];
    expect(await sha256OfImage(first, 'qcow2')).toBe(vda);
    expect(await sha256OfImage(second, 'raw')).toBe(vdb);
    const overlay = join(temp.path, 'overlay.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', first, '-F', 'qcow2', overlay]);
    expect(await sha256OfImage(overlay, 'qcow2')).toBe(vda);
    const compressed = join(temp.path, 'compressed.qcow2');
    await run('qemu-img', ['convert', '-q', '-c', '-O', 'qcow2', first, compressed]);
    expect(await sha256OfImage(compressed, 'qcow2')).toBe(vda);
    await qemuImgCheck(compressed);
    expect(await qemuImgInfo(overlay)).toMatchObject({ virtualSizeBytes: 64 * MIB, backingFile: first, bitmaps: [] });
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 1M 512', overlay]);
    expect(await sha256OfImage(overlay, 'qcow2')).not.toBe(vda);
    await expectVmClean(guest, 'web-1', { ...expected, state: 'shutoff' });
  });
});
