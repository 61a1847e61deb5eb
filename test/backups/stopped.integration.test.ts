import { readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, qemuImgInfo, sha256OfImage } from '../support/disk-content.ts';
import { createGuest, startGuest, stopGuest, writePattern, type Guest } from '../support/guest.ts';
import { startInstallation, type TestInstallation } from '../support/installation.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { run } from '../support/run.ts';
import { until } from '../support/processes.ts';
import { tempDir, type TempDir } from '../support/temp.ts';
import { liveCheckpoints } from '../support/test-bed.ts';

const MIB = 1024 * 1024;

describe('a stopped VM', () => {
  let dir: TempDir;
  let host: KvmHost;
  let installation: TestInstallation;
  let guest: Guest;
  beforeAll(async () => {
    dir = await tempDir();
    host = await startKvmHost({ name: 'kvm-off', dir: join(dir.path, 'h') });
    installation = await startInstallation({ host, dir: join(dir.path, 'i') });
    guest = await createGuest(host, {
      name: 'off-1',
      dir: join(dir.path, 'vm'),
      disks: [
        { target: 'vda', sizeBytes: 64 * MIB, format: 'qcow2', fs: 'ext4' },
        { target: 'vdb', sizeBytes: 768 * MIB, format: 'qcow2', fs: 'none' },
      ],
    });
    await write('0xa1', 0, 256 * MIB);
  });
  afterAll(async () => {
    await installation[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  });

  const image = (target: string): string => guest.disks.find((disk) => disk.target === target)!.path;
  /** Writes to the stopped image as QEMU's own tools do: recorded in its bitmaps. */
  const write = (pattern: string, offset: number, length: number) =>
    run('qemu-io', ['-f', 'qcow2', '-c', `write -q -P ${pattern} ${offset} ${length}`, image('vdb')]);
  /** `vda` holds a file system that a running guest writes to by itself. */
  const expectBytes = async (backup: Backup, targets = ['vda', 'vdb']): Promise<void> => {
    for (const disk of backup.disks.filter(({ target }) => targets.includes(target))) {
      const stored = installation.blob(disk.file);
      await qemuImgCheck(stored);
      expect(await sha256OfImage(stored, 'qcow2')).toBe(
        await sha256OfImage(image(disk.target), 'qcow2', { forceShare: true }),
      );
    }
  };
  const reasons = (backup: Backup) => backup.disks.map(({ type, fullReason }) => fullReason ?? type);
  const expectClean = async (state: 'running' | 'shutoff', checkpoints: string[] = []): Promise<void> => {
    const activeImages = { vda: image('vda'), vdb: image('vdb') };
    await expectVmClean(host, guest.name, { activeImages, state, checkpoints });
    const captures = await readdir(join(installation.dataDir, 'hosts', host.name, 'captures'));
    expect(captures).toEqual([]);
  };

  it('is backed up in full, then by its bitmap, without being started', async () => {
    const full = await installation.take('off-1');
    expect(full).toMatchObject({ type: 'full', consistency: 'stopped' });
    expect(reasons(full)).toEqual(['first-backup', 'first-backup']);
    await expectBytes(full);
    await expectClean('shutoff');

    await write('0xb2', 100 * MIB, 3 * MIB);
    const incremental = await installation.take('off-1');
    expect(reasons(incremental)).toEqual(['incremental', 'incremental']);
    expect(incremental.disks[1]!.readBytes).toBe(3 * MIB);
    await expectBytes(incremental);
    await expectClean('shutoff');
    const bitmaps = (await qemuImgInfo(image('vdb'))).bitmaps.map(({ name }) => name);
    expect(bitmaps).toEqual(liveCheckpoints(incremental));
  });

  it('goes on in the same chain when it runs, and when it is stopped again', async () => {
    await write('0xc3', 200 * MIB, 2 * MIB);
    await startGuest(guest);
    await writePattern(guest, { device: 1, pattern: 0xd4, offsetBytes: 300 * MIB, lengthBytes: MIB });
    const running = await installation.take('off-1');
    expect(reasons(running)).toEqual(['incremental', 'incremental']);
    expect(running.disks[1]!.changedBytes).toBe(3 * MIB);
    // What QEMU has of the image's tables in memory goes to the file.
    await guest.libvirt.monitorCommandHmp(
      guest.dom,
      'qemu-io -d /machine/peripheral/virtio-disk1/virtio-backend flush',
    );
    await expectBytes(running, ['vdb']);
    await expectClean('running', liveCheckpoints(running));

    await stopGuest(guest);
    await write('0xe5', 400 * MIB, 1 * MIB);
    const stopped = await installation.take('off-1');
    expect(reasons(stopped)).toEqual(['incremental', 'incremental']);
    await expectBytes(stopped);
  });

  it('is copied in full when its image was changed behind its bitmap', async () => {
    const copy = join(dir.path, 'copy.qcow2');
    await run('qemu-img', ['convert', '-O', 'qcow2', image('vdb'), copy]);
    await run('qemu-io', ['-f', 'qcow2', '-c', `write -q -P 0x77 0 1M`, copy]);
    await rename(copy, image('vdb'));
    const backup = await installation.take('off-1');
    expect(reasons(backup)).toEqual(['incremental', 'checkpoint-lost']);
    await expectBytes(backup);
  });

  it('is not kept from starting, and the backup is undone', async () => {
    const taking = installation.cli('backup', 'take', 'off-1', '--full', '--json');
    await until('the images are being read', async () => {
      const captures = await readdir(join(installation.dataDir, 'hosts', host.name, 'captures'));
      return captures.length > 0;
    });
    await startGuest(guest);
    const { exitCode, stdout, stderr } = await taking;
    if (exitCode === 0) {
      await expectBytes(JSON.parse(stdout) as Backup, ['vdb']); // all was read before the start
    } else {
      expect(JSON.parse(stderr)).toMatchObject({ error: { type: 'BackupJobLost' } });
    }
    const next = await installation.take('off-1');
    await expectBytes(next, ['vdb']);
    await expectClean('running', liveCheckpoints(next));
  });
});
