import { readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { CheckedRepository } from '../../schemas/check.ts';
import type { BackupCopy, CopiedVm } from '../../schemas/copy.ts';
import { CONTROL_QUEUE } from '../../schemas/queues.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import { newKeyPair } from '../support/encrypted-chain.ts';
import type { Guest } from '../support/guest.ts';
import { startInstallation } from '../support/installation.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { startS3Server } from '../support/s3-server.ts';
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

  describe('with encrypted repositories', () => {
    let vault: string;
    beforeAll(async () => {
      vault = join(bed.dir, 'vault');
      const operator = await operatorOf('vault');
      await bed.holdfast.json('repo', 'add', vault, '--name', 'vault', '--hide-names', ...operator.encrypted);
      await bed.holdfast.json('repo', 'set', 'vault', ...operator.identity);
    });

    /** Of a repository of its own: flags that encrypt it, and flags that tell hosts where the identity is. */
    async function operatorOf(name: string): Promise<{ encrypted: string[]; identity: string[] }> {
      const { identity, recipient } = await newKeyPair();
      const keyFile = join(bed.dir, `${name}.key`);
      await writeFile(keyFile, `${identity}\n`, { mode: 0o600 });
      return { encrypted: ['--encrypt', '--recipient', recipient], identity: ['--identity-file', keyFile] };
    }

    /** Files that hold what a guest wrote, or the VM's name. */
    async function showing(root: string, patterns: number[]): Promise<string[]> {
      const guests = [...patterns.map((pattern) => Buffer.alloc(4096, pattern)), '<name>copied</name>'];
      const files = await filesIn(root);
      const contents = await Promise.all(files.map((file) => readFile(join(root, file))));
      return files.filter((_, index) => guests.some((bytes) => contents[index]?.includes(bytes)));
    }

    async function contentFrom(repository: string, id: string): Promise<{ repository?: string; sha256: string }> {
      const restored = await bed.holdfast.restore(id, '--as', `${repository}-${id.slice(0, 8)}`, '--repo', repository);
      await qemuImgCheck(restored.disks[0]!.path);
      const sha256 = await sha256OfImage(restored.disks[0]!.path, 'qcow2');
      return { ...(restored.repository === undefined ? {} : { repository: restored.repository }), sha256 };
    }

    it('encrypts copies of plain backups without an identity, and restores from them with one', async () => {
      const own = await filesIn(vault);
      const key = join(bed.dir, 'vault.key');
      await rename(key, `${key}.away`);
      const copied = await bed.holdfast.json<CopiedVm>('repo', 'copy', '--all', '--vm', 'copied', '--to', 'vault');
      await rename(`${key}.away`, key);
      expect(copied).toMatchObject({ problems: [], copied: taken.map(({ backup: { id } }) => ({ id })) });
      const patterns = [0x31, 0x32, 0x33];
      expect(await showing(bed.holdfast.repositoryDir, patterns)).toHaveLength(6); // disk and manifest of each
      expect(await showing(vault, patterns)).toEqual([]);
      const { backup, sha256 } = taken[2]!;
      expect(await contentFrom('vault', backup.id)).toEqual({ repository: 'vault', sha256 });
      for (const one of taken.toReversed()) {
        await bed.holdfast.json('backup', 'delete', one.backup.id, '--repo', 'vault');
      }
      expect(await filesIn(vault)).toEqual(own);
    });

    it('encrypts encrypted backups anew for an encrypted bucket, which its own identity alone then restores from', async () => {
      await using server = await startS3Server('versitygw');
      const { bucket, prefix } = await server.newPlace();
      const own = await operatorOf('bucket');
      await bed.holdfast.json(
        ...['repo', 'add', `s3://${bucket}/${prefix}`, '--name', 'bucket', '--endpoint', server.endpoint],
        ...['--path-style', '--credentials-file', server.credentialsFile, ...own.encrypted],
      );
      const backups: { id: string; file: string; sha256: string }[] = [];
      for (const pattern of [0x41, 0x42]) {
        await vda.write(guest, pattern * MiB - 0x38 * MiB, 6 * MiB, pattern);
        const { id, disks } = await bed.take('copied', { repository: 'vault' });
        backups.push({ id, file: disks[0]!.file, sha256: vda.sha256 });
      }
      const copyOver = (...flags: string[]) => ['repo', 'copy', '--all', '--from', 'vault', '--vm', 'copied', ...flags];
      const copied = await bed.holdfast.json<CopiedVm>(...copyOver('--to', 'bucket'));
      expect(copied).toMatchObject({ problems: [], copied: backups.map(({ id }) => ({ id })) });
      expect((await filesIn(server.dataDir)).filter((file) => file.endsWith('.qcow2.age'))).toHaveLength(2);
      expect(await showing(server.dataDir, [0x41, 0x42])).toEqual([]);
      expect(await showing(join(bed.holdfast.dataDir, 'hosts'), [0x41, 0x42])).toEqual([]); // nor did anything stay there

      await bed.holdfast.json('repo', 'set', 'bucket', ...own.identity);
      await rename(vault, `${vault}.away`); // with its key
      for (const { id, sha256 } of backups) {
        expect(await contentFrom('bucket', id)).toEqual({ repository: 'bucket', sha256 });
      }
      await rename(`${vault}.away`, vault);

      const silent = await bed.holdfast.cli(...copyOver('--to', 'off-site'));
      expect([silent.exitCode, silent.stdout]).toEqual([1, expect.stringContaining('--decrypt')]);
      const plain = await bed.holdfast.json<CopiedVm>(...copyOver('--to', 'off-site', '--decrypt'));
      expect(plain).toMatchObject({ problems: [], copied: backups.map(({ id }) => ({ id })) });
      for (const { file, sha256 } of backups) {
        const decrypted = join(offSite, file.replace(/\.age$/, ''));
        await qemuImgCheck(decrypted);
        expect(await sha256OfImage(decrypted, 'qcow2')).toBe(sha256);
      }
      for (const { id } of backups.toReversed()) await bed.holdfast.json('backup', 'delete', id, '--copies');
      expect((await filesIn(server.dataDir)).filter((file) => file.includes('/disk-'))).toEqual([]);
    });
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

    it('finds what was altered in the second repository, marks the copies built on it, and heals them', async () => {
      const path = join(offSite, taken[1]!.backup.disks[0]!.file);
      const content = await readFile(path);
      const altered = Buffer.from(content);
      altered[altered.length >> 1]! ^= 0xff;
      await writeFile(path, altered);
      const check = async () => {
        const { exitCode, stdout } = await bed.holdfast.cli('repo', 'check', 'off-site', '--vm', 'copied', '--json');
        return { exitCode, ...(JSON.parse(stdout) as CheckedRepository) };
      };
      const marks = async () =>
        await Promise.all(
          taken.map(async ({ backup }) => {
            const [of] = (await shown(backup.id)).copies ?? [];
            return [of?.damage?.startsWith('bytes: ') ?? false, of?.verifiedAt !== null];
          }),
        );
      expect(await check()).toMatchObject({ exitCode: 1, files: 3, damagedFiles: 1 });
      expect(await marks()).toEqual([
        [false, true],
        [true, true],
        [true, true],
      ]);
      await writeFile(path, content);
      const ids = taken.slice(1).map(({ backup }) => backup.id);
      const { exitCode, damagedFiles, healed } = await check();
      expect([exitCode, damagedFiles, healed.toSorted()]).toEqual([0, 0, ids.toSorted()]);
      expect((await marks()).map(([damaged]) => damaged)).toEqual([false, false, false]);
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

  it('rebuilds copies in a catalog that is new, whichever repository is looked through first', async () => {
    const ids: string[] = [];
    for (const pattern of [0x51, 0x52]) {
      await vda.write(guest, 0, pattern * 64 * 1024, pattern);
      ids.push((await bed.take('copied', { repository: 'main', compression: 'none' })).id);
    }
    await copy('--all', '--vm', 'copied');
    await using second = await startInstallation({ host: bed.host, dir: join(bed.dir, 'second') });
    await second.json('repo', 'add', bed.holdfast.repositoryDir, '--name', 'old', '--take-over');
    await second.json('repo', 'add', offSite, '--name', 'off-site', '--take-over');
    const known = async () => {
      const listed = await second.json<Shown[]>('backup', 'ls', 'copied', '--all');
      return ids.map((id) => {
        const { state, repository, copies } = listed.find((one) => one.id === id)!;
        return [state, repository, copies?.map((one) => [one.repository, one.state, one.damage])];
      });
    };
    const whole = [['off-site', 'Copied', null]];
    await second.json('repo', 'rescan', 'off-site');
    expect(await known()).toEqual([
      ['Expunged', 'old', whole],
      ['Expunged', 'old', whole],
    ]);
    await second.json('repo', 'rescan', 'old');
    expect(await known()).toEqual([
      ['BackedUp', 'old', whole],
      ['BackedUp', 'old', whole],
    ]);
    for (const name of ['old', 'off-site']) {
      expect(await second.json('repo', 'rescan', name)).toMatchObject({ added: 0, changed: 0 });
    }
    const { repository, disks } = await second.restore(ids[1]!, '--as', 'from-second', '--repo', 'off-site');
    await qemuImgCheck(disks[0]!.path);
    expect([repository, await sha256OfImage(disks[0]!.path, 'qcow2')]).toEqual(['off-site', vda.sha256]);
    const next = await second.take('copied', '--repo', 'old', '--quiesce', 'none');
    expect([next.type, next.parentId]).toEqual(['incremental', ids[1]]);
  });
});
