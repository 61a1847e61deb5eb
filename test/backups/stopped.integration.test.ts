import { copyFile, open, readdir, rename } from 'node:fs/promises';
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

  describe('whose images were changed behind their bitmaps', () => {
    let other: Guest;
    const imageOf = (target: string): string => other.disks.find((disk) => disk.target === target)!.path;
    let writes = 0;
    const change = async (target: string): Promise<void> => {
      writes += 1;
      const where = `${writes * MIB} 64k`;
      await run('qemu-io', ['-f', 'qcow2', '-c', `write -q -P ${writes} ${where}`, imageOf(target)]);
    };
    /** Backs it up, proves every byte, and tells why what is full. */
    const next = async (): Promise<{ backup: Backup; vda: string; vdb: string }> => {
      const backup = await installation.take(other.name);
      for (const { target, file } of backup.disks) {
        await qemuImgCheck(installation.blob(file));
        const [stored, image] = [installation.blob(file), imageOf(target)];
        expect(await sha256OfImage(stored, 'qcow2')).toBe(await sha256OfImage(image, 'qcow2', { forceShare: true }));
      }
      const [vda = '', vdb = ''] = reasons(backup);
      return { backup, vda, vdb };
    };
    const define = async (name: string): Promise<void> => {
      other = await createGuest(host, {
        name,
        dir: join(dir.path, name),
        disks: ['vda', 'vdb'].map((target) => ({ target, sizeBytes: 32 * MIB, format: 'qcow2', fs: 'none' })),
      });
      await change('vda');
      await change('vdb');
    };

    it('is copied in full where another file took the place of its image, though the bitmap is in it', async () => {
      await define('behind-1');
      await next();
      await copyFile(imageOf('vda'), join(dir.path, 'put-back'));
      await change('vda');
      await rename(join(dir.path, 'put-back'), imageOf('vda'));
      await change('vda');
      expect(await next()).toMatchObject({ vda: 'disk-replaced', vdb: 'incremental' });

      await rename(imageOf('vda'), join(dir.path, 'exchanged'));
      await rename(imageOf('vdb'), imageOf('vda'));
      await rename(join(dir.path, 'exchanged'), imageOf('vdb'));
      expect(await next()).toMatchObject({ vda: 'disk-replaced', vdb: 'disk-replaced' });
      await change('vdb');
      expect(await next()).toMatchObject({ vda: 'incremental', vdb: 'incremental' });
    });

    it('goes on from the older backup whose bitmap is in a copy that was written back', async () => {
      await define('behind-2');
      await next();
      await change('vda');
      const { backup: second } = await next();
      await change('vda');
      await copyFile(imageOf('vda'), join(dir.path, 'older'));
      const { backup: third } = await next();
      await change('vda');
      await change('vdb');
      await copyFile(join(dir.path, 'older'), imageOf('vda')); // into the same file
      const { backup: fourth, ...kinds } = await next();
      expect(kinds).toEqual({ vda: 'incremental', vdb: 'incremental' });
      expect(third.parentId).toBe(second.id);
      expect(fourth.parentId).toBe(second.id);
    });

    it('is copied in full where the bitmap did not record, or was dropped by who does not know it', async () => {
      await define('behind-3');
      const { backup: first } = await next();
      await run('qemu-img', ['bitmap', '--disable', imageOf('vda'), `holdfast-${first.id}`]);
      await change('vda');
      expect(await next()).toMatchObject({ vda: 'bitmap-inconsistent', vdb: 'incremental' });
      const file = await open(imageOf('vdb'), 'r+');
      await file.write(Buffer.alloc(8), 0, 8, 88); // autoclear features: who does not know them clears them when writing
      await file.close();
      expect(await next()).toMatchObject({ vda: 'incremental', vdb: 'checkpoint-lost' });
    });

    it('is copied in full where its backing file is another one or was written to, and goes on when it runs', async () => {
      await define('behind-4');
      const bases = [join(dir.path, 'base-1'), join(dir.path, 'base-2')];
      for (const [index, base] of bases.entries()) {
        await run('qemu-img', ['create', '-q', '-f', 'qcow2', base, '32M']);
        await run('qemu-io', ['-f', 'qcow2', '-c', `write -q -P ${0x90 + index} 8M 1M`, base]);
      }
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', bases[0]!, '-F', 'qcow2', imageOf('vda'), '32M']);
      await next();
      await change('vda');
      expect(await next()).toMatchObject({ vda: 'incremental' });
      await run('qemu-img', ['rebase', '-u', '-b', bases[1]!, '-F', 'qcow2', imageOf('vda')]);
      expect(await next()).toMatchObject({ vda: 'image-changed', vdb: 'incremental' });
      await run('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 0x99 9M 64k', bases[1]!]);
      expect(await next()).toMatchObject({ vda: 'image-changed', vdb: 'incremental' });
      await change('vda');
      await startGuest(other); // libvirt and qemu-img agree on what is below
      expect(reasons(await installation.take(other.name))).toEqual(['incremental', 'incremental']);
      await stopGuest(other);
      await change('vdb');
      expect(await next()).toMatchObject({ vda: 'incremental', vdb: 'incremental' });
    });
  });
});
