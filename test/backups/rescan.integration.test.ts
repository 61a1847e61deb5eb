import { open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { CheckedRepository } from '../../schemas/check.ts';
import type { RescannedRepository } from '../../workflows/rescan-repository.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { createGuest, type Guest } from '../support/guest.ts';
import { startInstallation, type TestInstallation } from '../support/installation.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { tempDir, type TempDir } from '../support/temp.ts';
import { expectOnlyCheckpointOf, kindsOf, MiB, PatternedDisk } from '../support/test-bed.ts';

/** What somebody kept: a repository and the hosts. Catalog and Temporal of the first installation are gone. */
describe('a repository without its catalog', () => {
  let dir: TempDir;
  let host: KvmHost;
  let holdfast: TestInstallation;
  let guest: Guest;
  let place: string;
  let before: Backup[];
  const vda = new PatternedDisk(0, 32 * MiB);
  const blob = (key: string): string => join(place, key);
  const take = async (...flags: string[]): Promise<Backup> =>
    await holdfast.take('kept', '--quiesce', 'none', '--repo', 'safe', ...flags);
  const ls = async (): Promise<Backup[]> => await holdfast.json<Backup[]>('backup', 'ls', '--all');

  beforeAll(async () => {
    dir = await tempDir();
    place = join(dir.path, 'safe');
    host = await startKvmHost({ name: 'kvm-rescan', dir: join(dir.path, 'h') });
    guest = await createGuest(host, {
      name: 'kept',
      dir: join(dir.path, 'vm'),
      disks: [{ target: 'vda', sizeBytes: 32 * MiB, format: 'qcow2', fs: 'none' }],
    });
    await host.libvirt.create(guest.dom);
    holdfast = await startInstallation({ host, dir: join(dir.path, 'first') });
    await holdfast.json('repo', 'add', place, '--name', 'safe');
    await vda.write(guest, 0, 4 * MiB, 0x31);
    await take();
    await vda.write(guest, 8 * MiB, MiB, 0x32);
    await take('--full');
    await vda.write(guest, 12 * MiB, MiB, 0x33);
    await take();
    before = await ls();
    await holdfast[Symbol.asyncDispose]();
    holdfast = await startInstallation({ host, dir: join(dir.path, 'second') });
    await holdfast.json('repo', 'add', place, '--name', 'safe', '--take-over');
  });
  afterAll(async () => {
    await holdfast[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  });

  it('is taken over by a rescan, backups as they were', async () => {
    const dry = await holdfast.json<RescannedRepository>('repo', 'rescan', 'safe', '--dry-run');
    expect(dry).toMatchObject({ dryRun: true, manifests: 3, added: 3 });
    expect(await ls()).toEqual([]);
    const rescanned = await holdfast.json<RescannedRepository>('repo', 'rescan', 'safe');
    expect(rescanned).toMatchObject({ vms: 1, manifests: 3, added: 3, changed: 0, told: [] });
    expect(await ls()).toEqual(before);
    expect(await holdfast.json('repo', 'rescan', 'safe')).toMatchObject({ added: 0, changed: 0, told: [] });
  });

  let next: Backup;
  it('goes on with its chain where it was: the checkpoint on the VM still serves', async () => {
    await vda.write(guest, 20 * MiB, MiB, 0x34);
    next = await take();
    expect(kindsOf(next)).toEqual({ vda: 'incremental' });
    expect(next).toMatchObject({ parentId: before[0]?.id, chainId: before[0]?.chainId, position: 3 });
    expect(next.disks[0]?.changedBytes).toBe(MiB);
    expect(await sha256OfImage(blob(next.disks[0]?.file ?? ''), 'qcow2')).toBe(vda.sha256);
    await expectOnlyCheckpointOf(guest, next);
  });

  it('restores what it holds', async () => {
    const { disks } = await holdfast.restore(next.id, '--as', 'again');
    expect(disks).toMatchObject([{ target: 'vda', verified: true }]);
    expect(await sha256OfImage(disks[0]?.path ?? '', 'qcow2')).toBe(vda.sha256);
  });

  describe('with a flipped bit', () => {
    let file: string;
    let later: Backup;
    const check = async (...flags: string[]): Promise<CheckedRepository & { exitCode: number }> => {
      const { exitCode, stdout, stderr } = await holdfast.cli('--json', 'repo', 'check', 'safe', ...flags);
      if (stdout === '') throw new Error(stderr);
      return { ...(JSON.parse(stdout) as CheckedRepository), exitCode };
    };
    const flip = async (): Promise<void> => {
      await using handle = await open(blob(file), 'r+');
      const at = 200_000; // in the middle of the data
      const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, at);
      await handle.write(Buffer.from([(buffer[0] ?? 0) ^ 0x01]), 0, 1, at);
    };
    const marked = async (): Promise<string[]> =>
      (await holdfast.json<(Backup & { damage?: string })[]>('backup', 'ls')).flatMap(({ id, damage }) =>
        damage === undefined ? [] : [id],
      );
    // Newest first: the increment on the full, the full, and the first backup, whose chain is over.
    const full = (): Backup => before[1] as Backup;

    it('marks the backup and all that is built on it, and those only', async () => {
      expect(await check()).toMatchObject({ exitCode: 0, files: 4, damagedFiles: 0 });
      file = full().disks[0]?.file ?? '';
      await flip();
      expect(await check('--sample', '25%')).toMatchObject({ files: 1, damagedFiles: 0 }); // the first backup's turn
      const checked = await check('--vm', 'kept', '--rate', '200M');
      expect(checked).toMatchObject({
        exitCode: 1,
        files: 4,
        damagedFiles: 1,
        damaged: [{ backupId: full().id, file }],
      });
      expect(await marked()).toEqual([next.id, before[0]?.id, full().id]);
      expect(await holdfast.json('backup', 'show', next.id)).toMatchObject({
        state: 'BackedUp',
        damage: expect.stringContaining(`built on backup ${full().id}`) as string,
      });
    });

    it('restores none of them, and writes nothing', async () => {
      const refused = await holdfast.cli('--json', 'restore', next.id, '--as', 'never');
      expect(refused.exitCode).toBe(1);
      expect(JSON.parse(refused.stderr)).toMatchObject({
        error: { type: 'BackupNotRestorable', message: expect.stringContaining(file) as string },
      });
      expect(await host.libvirt.lookupByName('never')).toBeUndefined();
    });

    it('builds nothing on them: the next backup is full, and says why', async () => {
      later = await take();
      expect(kindsOf(later)).toEqual({ vda: 'full: parent-damaged' });
      expect(await marked()).not.toContain(later.id);
    });

    it('trusts them again when the file is right again', async () => {
      await flip();
      expect(await check()).toMatchObject({
        exitCode: 0,
        damagedFiles: 0,
        healed: expect.arrayContaining([next.id]) as string[],
      });
      expect(await marked()).toEqual([]);
    });
  });

  it('marks a backup whose file is gone, with all that is built on it, and takes it back when it is there again', async () => {
    const gone = blob(before[1]?.disks[0]?.file ?? '');
    await rename(gone, `${gone}.away`);
    const states = async (): Promise<string[]> => (await ls()).map(({ state }) => state);
    const rescanned = await holdfast.json<RescannedRepository>('repo', 'rescan', 'safe');
    expect(rescanned.findings).toMatchObject({ missing: 3, damaged: 0, surplus: 0 });
    expect(await states()).toEqual(['BackedUp', 'Error', 'Error', 'Error', 'BackedUp']);
    await rename(`${gone}.away`, gone);
    expect(await holdfast.json('repo', 'rescan', 'safe')).toMatchObject({ changed: 3, told: [] });
    expect(await states()).toEqual(['BackedUp', 'BackedUp', 'BackedUp', 'BackedUp', 'BackedUp']);
  });
});
