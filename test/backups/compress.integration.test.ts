import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { MergedChain } from '../../schemas/merge-plan.ts';
import type { CompressedBackup } from '../../workflows/compress-backup.ts';
import type { Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { tempDir, type TempDir } from '../support/temp.ts';
import {
  expectOnlyCheckpointOf,
  expectStored,
  manifestOf,
  MiB,
  PatternedDisk,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

type Shown = Backup & { rewriteFailure?: string };

describe('rewriting stored backups', () => {
  let bed: TestBed;
  let guest: Guest;
  let folder: TempDir;
  let small: string;
  const vda = new PatternedDisk(0, 64 * MiB);
  /** What each backup must hold, oldest first. */
  let contents: { backup: Backup; sha256: string }[] = [];

  const take = async (request: Parameters<TestBed['take']>[1] = {}): Promise<Backup> => {
    const backup = await bed.take('packed', { repository: 'main', compression: 'none', chainSize: 0, ...request });
    contents.push({ backup, sha256: vda.sha256 });
    return backup;
  };
  beforeAll(async () => {
    bed = await startTestBed('kvm-compress', { heartbeatSeconds: 4 });
    folder = await tempDir();
    small = join(folder.path, 'small');
    await mkdir(small);
    await run('mount', ['-t', 'tmpfs', '-o', 'size=96m', 'tmpfs', small]);
    await bed.holdfast.json('repo', 'add', small, '--name', 'small');
    guest = await bed.guest({
      name: 'packed',
      disks: [{ target: 'vda', sizeBytes: 64 * MiB, format: 'qcow2', fs: 'none' }],
    });
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 24 * MiB, 0x21);
    await take();
    await vda.write(guest, 4 * MiB, 2 * MiB, 0x22);
    await take();
    await vda.write(guest, 5 * MiB, 8 * MiB, 0x23);
    await take();
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
    await run('umount', [small]);
    await folder[Symbol.asyncDispose]();
  });

  const shown = (id: string): Promise<Shown> => bed.holdfast.json('backup', 'show', id);
  const compress = (id: string, ...flags: string[]): Promise<CompressedBackup> =>
    bed.holdfast.json('backup', 'compress', id, ...flags);
  /** Every backup that is there, as its files lie there, is what it was, and QEMU reads it with all it is built on. */
  const expectAllStored = async (): Promise<void> => {
    for (const { backup, sha256 } of contents) {
      await expectStored(bed.holdfast, await shown(backup.id), { vda: { sha256 } });
    }
  };
  const strayFiles = async (root = bed.holdfast.repositoryDir): Promise<string[]> => {
    const { stdout } = await run('find', [root, '-name', '*rewrite*', '-printf', '%P\n']);
    return stdout.toString().split('\n').filter(Boolean);
  };
  const notes = async (): Promise<string[]> =>
    await readdir(join(bed.holdfast.dataDir, 'hosts', bed.host.name, 'rewrites')).catch(() => []);
  /** Nothing of it is left, anywhere. */
  const expectTidy = async (): Promise<void> => {
    expect(await strayFiles()).toEqual([]);
    expect(await notes()).toEqual([]);
    expect(await bed.holdfast.json('job', 'ls', '--running')).toEqual([]);
  };
  const begin = async (...command: string[]): Promise<string> =>
    (await bed.holdfast.json<{ jobId: string }>(...command, '--no-wait')).jobId;
  const ended = async (jobId: string): Promise<void> => {
    const handle = (await bed.holdfast.client()).workflow.getHandle(jobId);
    await until(`job ${jobId} is over`, async () => (await handle.describe()).status.name !== 'RUNNING', {
      timeoutMs: 120_000,
    });
  };
  const restoreAs = async (id: string, name: string): Promise<string> => {
    const { disks } = await bed.restore(id, { as: name });
    const raw = join(bed.dir, `${name}.raw`);
    await run('qemu-img', ['convert', '-O', 'raw', disks[0]!.path, raw]);
    const { stdout } = await run('sha256sum', [raw]);
    await rm(raw);
    return stdout.toString().slice(0, 64);
  };

  describe('compressing', () => {
    it('makes the middle of a chain smaller: the same content, and the children stay right', async () => {
      const [, middle] = contents;
      const before = await shown(middle!.backup.id);
      expect(before.compression).toBe('None');
      const compressed = await compress(middle!.backup.id);
      expect(compressed).toMatchObject({
        id: middle!.backup.id,
        state: 'BackedUp',
        type: 'incremental',
        compression: 'Compressed',
        compressionResult: {
          outcome: 'compressed',
          beforeBytes: before.storedBytes,
          afterBytes: compressed.storedBytes,
        },
      });
      expect(compressed.storedBytes).toBeLessThan(before.storedBytes / 2);
      expect(compressed.disks[0]).toMatchObject({ ...before.disks[0], storedBytes: compressed.storedBytes });
      const manifest = await manifestOf(bed.holdfast, compressed);
      expect(manifest.compression).toBe('zstd');
      expect(manifest.disks[0]).toMatchObject({ file: before.disks[0]!.file, storedBytes: compressed.storedBytes });
      expect(manifest.disks[0]).not.toHaveProperty('replacement');
      expect((await readFile(bed.holdfast.blob(before.disks[0]!.file))).length).toBe(compressed.storedBytes);
      await expectAllStored();
      await expectTidy();
    });

    it('says so when it is compressed already, and does nothing', async () => {
      const [, middle] = contents;
      const before = await shown(middle!.backup.id);
      const again = await compress(middle!.backup.id);
      expect(again.compressionResult).toEqual({
        outcome: 'already-compressed',
        beforeBytes: before.storedBytes,
        afterBytes: before.storedBytes,
      });
      expect(await shown(middle!.backup.id)).toEqual(before);
    });

    it('goes on after its worker was killed, and can be cancelled: then all is as before', async () => {
      const newest = contents[2]!.backup;
      const before = await shown(newest.id);
      const cancelled = await begin('backup', 'compress', newest.id);
      await bed.holdfast.kill('host');
      await bed.holdfast.cli('job', 'cancel', cancelled, '--json');
      await ended(cancelled);
      const after = await shown(newest.id);
      const status = await bed.holdfast.json<{ status: string }>('job', 'show', cancelled);
      if (status.status === 'CANCELLED') expect(after).toEqual(before);
      else expect(after.compression, 'it was faster').toBe('Compressed');
      await expectAllStored();
      await expectTidy();

      await bed.holdfast.isBack('host');
      const killed = await begin('backup', 'compress', newest.id);
      await bed.holdfast.kill('host');
      await ended(killed);
      expect((await shown(newest.id)).compression).toBe('Compressed');
      await expectAllStored();
      await expectTidy();
    });

    it('waits with its swap for a restore of a descendant, which finds what it needs', async () => {
      const [full, , newest] = contents;
      const restoring = restoreAs(newest!.backup.id, 'during');
      const compressed = await compress(full!.backup.id);
      expect(compressed.compression).toBe('Compressed');
      expect(await restoring).toBe(newest!.sha256);
      await expectAllStored();
    });

    it('leaves the next backup an increment on what was compressed', async () => {
      await vda.write(guest, 40 * MiB, MiB, 0x24);
      const next = await take();
      expect(next.type).toBe('incremental');
      await expectAllStored();
      await expectOnlyCheckpointOf(guest, next, { checkpoints: await checkpoints(), otherFiles: [/^during-/] });
    });

    it('restores what was compressed', async () => {
      for (const [index, { backup, sha256 }] of contents.entries()) {
        expect(await restoreAs(backup.id, `restored-${index}`)).toBe(sha256);
      }
    });

    it('keeps files that do not get smaller, says so, and does not try again', async () => {
      const noise = join(bed.dir, 'noise');
      await writeFile(noise, randomBytes(2 * MiB));
      await guest.libvirt.monitorCommandHmp(
        guest.dom,
        `qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -q -s ${noise} 50M 2M"`,
      );
      const random = await bed.take('packed', { repository: 'main', compression: 'none', isolated: true });
      // The whole disk compresses, so what cannot is an increment of nothing else.
      const packed = await compress(random.id);
      expect(packed.compressionResult.outcome).toBe('compressed');
      const increment = await bed.take('packed', { repository: 'main', compression: 'none', chainSize: 0 });
      const before = await shown(increment.id);
      const kept = await compress(increment.id);
      expect(kept.compressionResult).toEqual({
        outcome: 'not-smaller',
        beforeBytes: before.storedBytes,
        afterBytes: before.storedBytes,
      });
      expect(kept).toMatchObject({ compression: 'Compressed', storedBytes: before.storedBytes });
      expect((await compress(increment.id)).compressionResult.outcome).toBe('already-compressed');
      await expectTidy();
    });

    it('is refused where there is no room beside, leaves the former files, and can be tried again', async () => {
      const lone = await bed.take('packed', { repository: 'small', compression: 'none', isolated: true });
      await run('mount', ['-o', 'remount,size=60m', small]);
      const full = await bed.holdfast.cli('backup', 'compress', lone.id, '--json');
      expect(full.exitCode).toBe(1);
      expect(JSON.parse(full.stderr)).toMatchObject({
        error: {
          type: 'RepositoryFull',
          message: expect.stringMatching(/needs up to \d+ bytes beside its file/) as string,
        },
      });
      expect(await shown(lone.id)).toMatchObject({
        compression: 'CompressionError',
        rewriteFailure: expect.stringMatching(/^RepositoryFull: /) as string,
        storedBytes: lone.storedBytes,
      });
      expect(await strayFiles(small)).toEqual([]);
      await run('mount', ['-o', 'remount,size=96m', small]);
      expect((await compress(lone.id)).compressionResult.outcome).toBe('compressed');
      expect(await shown(lone.id)).not.toHaveProperty('rewriteFailure');
      await bed.holdfast.json('backup', 'delete', lone.id);
    });

    it('follows each backup of an offering that says `deferred`', async () => {
      await bed.holdfast.json('offering', 'create', 'later', '--repo', 'small', '--compression', 'deferred');
      await bed.holdfast.json('offering', 'assign', 'later', 'packed');
      const taken = await bed.take('packed', { isolated: true });
      await until('it is compressed', async () => (await shown(taken.id)).compression === 'Compressed', {
        timeoutMs: 120_000,
      });
      expect((await shown(taken.id)).storedBytes).toBeLessThan(taken.storedBytes);
      await bed.holdfast.json('offering', 'remove', 'packed');
    });
  });

  describe('merging', () => {
    const checkedChain = async (): Promise<Backup[]> => {
      const ids = new Set(contents.map(({ backup }) => backup.id));
      const listed = await bed.holdfast.json<Backup[]>('backup', 'ls', 'packed');
      return listed.filter(({ id }) => ids.has(id)).toReversed();
    };
    beforeAll(async () => {
      contents = [];
      vda.note(50 * MiB, 2 * MiB, 0);
      await vda.write(guest, 50 * MiB, 2 * MiB, 0x30); // what the tests before wrote there is unknown
      await take({ full: true });
      await vda.write(guest, 2 * MiB, MiB, 0x31);
      await take();
      await vda.write(guest, 3 * MiB, 2 * MiB, 0x32);
      await take();
      await vda.write(guest, 0, 2 * MiB, 0x33);
      await take();
    });

    it('tells beforehand what would go', async () => {
      const [full, into] = contents;
      const plan = await bed.holdfast.json<MergedChain>('chain', 'merge', 'packed', '--repo', 'main', '--dry-run');
      expect(plan).toMatchObject({ dryRun: true, blocked: null });
      expect(plan.merges).toMatchObject([{ full: { id: full!.backup.id }, into: { id: into!.backup.id } }]);
      expect((await checkedChain()).length).toBe(4);
    });

    it('makes the oldest increment the full; the former full is gone, all others are what they were', async () => {
      const [full, into] = contents;
      await bed.holdfast.json('chain', 'merge', 'packed', '--repo', 'main');
      contents = contents.slice(1);
      const merged = await shown(into!.backup.id);
      expect(merged).toMatchObject({
        type: 'full',
        parentId: null,
        chainId: full!.backup.chainId,
        position: 2,
        instant: into!.backup.instant,
        disks: [{ type: 'full', fullReason: 'merged', file: into!.backup.disks[0]!.file }],
      });
      expect(await manifestOf(bed.holdfast, merged)).toMatchObject({
        type: 'full',
        parentId: null,
        disks: [{ backingFile: null }],
      });
      expect((await shown(full!.backup.id)).state).toBe('Expunged');
      const { stdout } = await run('find', [bed.holdfast.repositoryDir, '-type', 'f', '-printf', '%P\n']);
      expect(stdout.toString()).not.toContain(full!.backup.disks[0]!.file);
      expect(stdout.toString()).not.toContain(full!.backup.id);
      await expectAllStored();
      await expectTidy();
    });

    it('leaves the next backup an increment, and restores what was merged and what is built on it', async () => {
      await vda.write(guest, 60 * MiB, MiB, 0x34);
      // Four backups since the former full; three are there: a chain of four has room for one more.
      const next = await take({ chainSize: 4 });
      expect(next).toMatchObject({ type: 'incremental', position: 5, endOfChain: true });
      for (const [index, { backup, sha256 }] of contents.entries()) {
        expect(await restoreAs(backup.id, `merged-${index}`)).toBe(sha256);
      }
    });

    it('goes on after a kill, until as few are left as were asked for', async () => {
      const merging = await begin('chain', 'merge', 'packed', '--repo', 'main', '--keep', '2');
      await bed.holdfast.kill('host');
      await ended(merging);
      contents = contents.slice(-2);
      expect((await checkedChain()).map(({ id, type }) => ({ id, type }))).toEqual([
        { id: contents[0]!.backup.id, type: 'full' },
        { id: contents[1]!.backup.id, type: 'incremental' },
      ]);
      await expectAllStored();
      await expectTidy();
    });

    it('says so when nothing is left to merge', async () => {
      const nothing = await bed.holdfast.cli('chain', 'merge', 'packed', '--repo', 'main', '--keep', '2', '--json');
      expect(nothing.exitCode).toBe(1);
      expect(JSON.parse(nothing.stderr)).toMatchObject({ error: { type: 'NothingToMerge' } });
    });

    it('deletes what was merged like any other', async () => {
      await bed.holdfast.json('backup', 'delete', contents[0]!.backup.id);
      expect((await shown(contents[0]!.backup.id)).state).toBe('Removed');
      await bed.holdfast.json('backup', 'delete', contents[1]!.backup.id);
      expect((await shown(contents[0]!.backup.id)).state).toBe('Expunged');
    });
  });

  async function checkpoints(): Promise<string[]> {
    return await bed.host.libvirt.checkpointList(guest.dom);
  }
});
