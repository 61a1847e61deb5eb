import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { BackupCopy, CopiedVm } from '../../schemas/copy.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import type { Guest } from '../support/guest.ts';
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
});
