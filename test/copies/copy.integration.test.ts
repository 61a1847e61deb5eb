import { readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { BackupCopy, CopiedVm } from '../../schemas/copy.ts';
import { CONTROL_QUEUE } from '../../schemas/queues.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import { newKeyPair } from '../support/encrypted-chain.ts';
import type { Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { liveCheckpoints, MiB, PatternedDisk, startTestBed, type TestBed } from '../support/test-bed.ts';

type Shown = Backup & { copies?: BackupCopy[] };

describe('copies in a second repository', () => {
  let bed: TestBed;
  let guest: Guest;
  let offSite: string;
  const vda = new PatternedDisk(0, 64 * MiB);
  /** Full and two increments, oldest first. */
  const taken: { backup: Backup; sha256: string }[] = [];

  beforeAll(async () => {
    bed = await startTestBed('kvm-copy', { heartbeatSeconds: 4 });
    offSite = join(bed.dir, 'off-site');
    await bed.holdfast.json('repo', 'add', offSite, '--name', 'off-site');
    guest = await bed.guest({
      name: 'copied',
      disks: [{ target: 'vda', sizeBytes: 64 * MiB, format: 'qcow2', fs: 'none' }],
    });
    await bed.host.libvirt.create(guest.dom);
    for (const [index, pattern] of [0x31, 0x32, 0x33].entries()) {
      await vda.write(guest, index * 3 * MiB, (index === 0 ? 32 : 4) * MiB, pattern);
      const backup = await bed.take('copied', { repository: 'main', compression: 'none' });
      taken.push({ backup, sha256: vda.sha256 });
    }
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  const shown = (id: string): Promise<Shown> => bed.holdfast.json('backup', 'show', id);
  const copy = (...flags: string[]): Promise<CopiedVm> =>
    bed.holdfast.json('repo', 'copy', ...flags, '--to', 'off-site');
  const filesIn = async (root: string): Promise<string[]> => {
    const { stdout } = await run('find', [root, '-type', 'f', '-printf', '%P\n']);
    return stdout.toString().split('\n').filter(Boolean).toSorted();
  };
  const notes = async (): Promise<string[]> =>
    await readdir(join(bed.holdfast.dataDir, 'hosts', bed.host.name, 'copies'));

  it('tells beforehand what would be copied', async () => {
    const [full, first, second] = taken;
    const plan = await copy(second!.backup.id, '--dry-run');
    expect(plan.copied.map(({ id, isAncestor }) => [id, isAncestor])).toEqual([
      [full!.backup.id, true],
      [first!.backup.id, true],
      [second!.backup.id, false],
    ]);
    expect(await filesIn(offSite)).toEqual(['repository.json']);
  });

  it('copies a chain with all its files as they are, parents first', async () => {
    const [full, first, second] = taken;
    const copied = await copy(second!.backup.id);
    expect(copied.copied.map(({ id }) => id)).toEqual([full, first, second].map((one) => one!.backup.id));
    expect(copied.writtenBytes).toBe(taken.reduce((sum, { backup }) => sum + backup.storedBytes, 0));
    expect(await filesIn(offSite)).toEqual(await filesIn(bed.holdfast.repositoryDir));
    for (const { backup, sha256 } of taken) {
      const file = join(offSite, backup.disks[0]!.file);
      await qemuImgCheck(file);
      expect(await sha256OfImage(file, 'qcow2')).toBe(sha256);
      const there = await shown(backup.id);
      expect(there.copies).toMatchObject([
        { repository: 'off-site', state: 'Copied', storedBytes: backup.storedBytes, failure: null },
      ]);
    }
    expect(await notes()).toEqual([]);
    await expectVmClean(bed.host, 'copied', {
      activeImages: { vda: guest.disks[0]!.path },
      checkpoints: liveCheckpoints(second!.backup),
    });
  });

  it('does nothing the second time', async () => {
    const before = await filesIn(offSite);
    expect(await copy('--all', '--vm', 'copied')).toMatchObject({ copied: [], present: 3, writtenBytes: 0 });
    expect(await copy(taken[0]!.backup.id)).toMatchObject({ copied: [], writtenBytes: 0 });
    expect(await filesIn(offSite)).toEqual(before);
  });

  it('encrypts copies for an encrypted repository without an identity, and restores from them with one', async () => {
    const vault = join(bed.dir, 'vault');
    const operator = await newKeyPair();
    const keyFile = join(bed.dir, 'operator.key');
    await writeFile(keyFile, `${operator.identity}\n`, { mode: 0o600 });
    const encrypted = ['--encrypt', '--hide-names', '--recipient', operator.recipient];
    await bed.holdfast.json('repo', 'add', vault, '--name', 'vault', ...encrypted);
    const own = await filesIn(vault);
    const copied = await bed.holdfast.json<CopiedVm>('repo', 'copy', '--all', '--vm', 'copied', '--to', 'vault');
    expect(copied).toMatchObject({ problems: [], copied: taken.map(({ backup: { id } }) => ({ id })) });
    const guests = [...[0x31, 0x32, 0x33].map((pattern) => Buffer.alloc(4096, pattern)), '<name>copied</name>'];
    const showing = async (root: string): Promise<string[]> => {
      const files = await filesIn(root);
      const contents = await Promise.all(files.map((file) => readFile(join(root, file))));
      return files.filter((_, index) => guests.some((bytes) => contents[index]?.includes(bytes)));
    };
    expect(await showing(bed.holdfast.repositoryDir)).toHaveLength(6); // disk and manifest of each
    expect(await showing(vault)).toEqual([]);
    await bed.holdfast.json('repo', 'set', 'vault', '--identity-file', keyFile);
    const { backup, sha256 } = taken[2]!;
    const { repository, disks } = await bed.holdfast.restore(backup.id, '--as', 'from-vault', '--repo', 'vault');
    await qemuImgCheck(disks[0]!.path);
    expect([repository, await sha256OfImage(disks[0]!.path, 'qcow2')]).toEqual(['vault', sha256]);
    for (const one of taken.toReversed()) {
      await bed.holdfast.json('backup', 'delete', one.backup.id, '--repo', 'vault');
    }
    expect(await filesIn(vault)).toEqual(own);
  });

  describe('when something becomes of the originals', () => {
    const restored = async (
      name: string,
      ...flags: string[]
    ): Promise<{ repository: string | undefined; sha256: string }> => {
      const { repository, disks } = await bed.holdfast.restore(taken[2]!.backup.id, '--as', name, ...flags);
      await qemuImgCheck(disks[0]!.path);
      return { repository, sha256: await sha256OfImage(disks[0]!.path, 'qcow2') };
    };

    it('restores from the original while it is whole, and from the copy when that is asked for', async () => {
      const { sha256 } = taken[2]!;
      expect(await restored('from-main')).toEqual({ repository: undefined, sha256 });
      expect(await restored('from-copy', '--repo', 'off-site')).toEqual({ repository: 'off-site', sha256 });
    });

    it('restores from the copy while the repository of the original is away', async () => {
      const { repositoryDir } = bed.holdfast;
      await rename(repositoryDir, `${repositoryDir}.away`);
      try {
        expect(await restored('from-off-site')).toEqual({ repository: 'off-site', sha256: taken[2]!.sha256 });
      } finally {
        await rename(`${repositoryDir}.away`, repositoryDir);
      }
    });

    it('goes on with the copy when it finds the original altered while it reads', async () => {
      const path = bed.holdfast.blob(taken[1]!.backup.disks[0]!.file);
      const content = await readFile(path);
      const altered = Buffer.from(content);
      altered[altered.length >> 1]! ^= 0xff;
      await writeFile(path, altered);
      try {
        expect(await restored('from-whole')).toEqual({ repository: 'off-site', sha256: taken[2]!.sha256 });
      } finally {
        await writeFile(path, content);
      }
    });

    it('keeps, lists and restores copies whose originals are deleted, and deletes copies by the same rules', async () => {
      const ids = taken.map(({ backup }) => backup.id);
      for (const id of ids.toReversed()) await bed.holdfast.json('backup', 'delete', id);
      expect(await filesIn(bed.holdfast.repositoryDir)).toEqual(['repository.json']);
      const listed = await bed.holdfast.json<Shown[]>('backup', 'ls', 'copied');
      expect(listed.map(({ id, state, copies }) => [id, state, copies?.[0]?.state])).toEqual(
        ids.toReversed().map((id) => [id, 'Expunged', 'Copied']),
      );
      expect(await restored('from-the-copy-alone')).toEqual({ repository: 'off-site', sha256: taken[2]!.sha256 });
      await bed.holdfast.json('backup', 'delete', ids[0]!, '--repo', 'off-site');
      expect((await shown(ids[0]!)).copies).toMatchObject([{ state: 'Removed' }]);
      await bed.holdfast.json('backup', 'delete', ids[2]!, '--repo', 'off-site');
      await bed.holdfast.json('backup', 'delete', ids[1]!, '--repo', 'off-site');
      expect(await filesIn(offSite)).toEqual(['repository.json']);
      expect(await bed.holdfast.json<Shown[]>('backup', 'ls', 'copied')).toEqual([]);
    });
  });

  describe('cut off in the middle', () => {
    let big: Backup;
    beforeAll(async () => {
      await run('dd', ['if=/dev/urandom', `of=${join(bed.dir, 'noise')}`, 'bs=1M', 'count=256', 'status=none']);
      const noisy = await bed.guest({
        name: 'noisy',
        disks: [{ target: 'vda', sizeBytes: 320 * MiB, format: 'qcow2', fs: 'none' }],
      });
      await run('qemu-io', ['-f', 'qcow2', '-c', `write -q -s ${join(bed.dir, 'noise')} 0 256M`, noisy.disks[0]!.path]);
      big = await bed.take('noisy', { repository: 'main', compression: 'none' });
    });
    const begun = async (): Promise<string> => {
      const { workflowId: jobId } = await (
        await bed.holdfast.client()
      ).workflow.start('copyBackup', {
        taskQueue: CONTROL_QUEUE,
        workflowId: 'copyBackup-noisy',
        args: [{ backupId: big.id, to: 'off-site' }],
      });
      const file = join(offSite, big.disks[0]!.file);
      const sizeBytes = async (): Promise<number> => (await stat(file).catch(() => ({ size: 0 }))).size;
      await until('bytes are copied', async () => (await sizeBytes()) > 4 * MiB, { timeoutMs: 60_000, everyMs: 5 });
      return jobId;
    };
    const resultOfJob = async (jobId: string): Promise<unknown> =>
      await (await bed.holdfast.client()).workflow.getHandle(jobId).result();

    it('goes on where it was when its worker is killed', async () => {
      const jobId = await begun();
      await bed.holdfast.kill('host');
      await bed.holdfast.isBack('host');
      expect(await resultOfJob(jobId)).toMatchObject({ problems: [] });
      const file = join(offSite, big.disks[0]!.file);
      await qemuImgCheck(file);
      expect(await sha256OfImage(file, 'qcow2')).toBe(
        await sha256OfImage(bed.holdfast.blob(big.disks[0]!.file), 'qcow2'),
      );
      expect(await notes()).toEqual([]);
    });
  });
});
