import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, sha256OfImage } from '../support/disk-content.ts';
import { createGuest, writePattern, type Guest } from '../support/guest.ts';
import { startInstallation, type TestInstallation } from '../support/installation.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { run } from '../support/run.ts';
import { tempDir, type TempDir } from '../support/temp.ts';
import { liveCheckpoints } from '../support/test-bed.ts';

const MIB = 1024 * 1024;

describe('deleting backups and finishing chains', () => {
  let dir: TempDir;
  let host: KvmHost;
  let holdfast: TestInstallation;
  let guest: Guest;
  const takes: Backup[] = [];
  beforeAll(async () => {
    dir = await tempDir();
    host = await startKvmHost({ name: 'kvm-del', dir: join(dir.path, 'h') });
    holdfast = await startInstallation({ host, dir: join(dir.path, 'i') });
    guest = await createGuest(host, {
      name: 'del-1',
      dir: join(dir.path, 'vm'),
      disks: [{ target: 'vda', sizeBytes: 64 * MIB, format: 'qcow2', fs: 'none' }],
    });
    await host.libvirt.create(guest.dom);
    for (const pattern of [1, 2, 3]) {
      await writePattern(guest, { pattern, offsetBytes: pattern * MIB, lengthBytes: MIB });
      takes.push(await holdfast.take('del-1', '--quiesce', 'none'));
    }
  });
  afterAll(async () => {
    await holdfast[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  });

  const listed = async (): Promise<string[]> =>
    (await holdfast.json<Backup[]>('backup', 'ls', 'del-1')).map(({ id }) => id);
  const storedFiles = async (): Promise<string[]> => {
    const { stdout } = await run('find', [holdfast.repositoryDir, '-type', 'f', '-printf', '%P\n']);
    return stdout
      .toString()
      .split('\n')
      .filter((name) => name !== '' && name !== 'repository.json')
      .toSorted();
  };
  const filesOf = (backup: Backup): string[] =>
    [
      ...backup.disks.flatMap(({ file }) => [file, `${file}.sums`]),
      `${guest.uuid}/backups/${backup.id}.json`,
    ].toSorted();

  it('tells beforehand what would go and what would stay', async () => {
    const plan = await holdfast.json<DeletePlan>('backup', 'delete', takes[0]!.id, '--dry-run');
    expect(plan).toMatchObject({ hide: true, expunge: [], freedBytes: 0, neededBy: [takes[2]!.id, takes[1]!.id] });
    expect(await listed()).toEqual(takes.map(({ id }) => id).toReversed());
  });

  it('hides a backup that others are built on, and they stay whole', async () => {
    await holdfast.json('backup', 'delete', takes[0]!.id);
    expect(await listed()).toEqual([takes[2]!.id, takes[1]!.id]);
    expect(await storedFiles()).toEqual(takes.flatMap(filesOf).toSorted());
    const newest = holdfast.blob(takes[2]!.disks[0]!.file);
    await qemuImgCheck(newest);
    await guest.libvirt.monitorCommandHmp(
      guest.dom,
      'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend flush',
    );
    expect(await sha256OfImage(newest, 'qcow2')).toBe(
      await sha256OfImage(guest.disks[0]!.path, 'qcow2', { forceShare: true }),
    );
  });

  it('removes the newest, and the next backup is a full of a new chain', async () => {
    await holdfast.json('backup', 'delete', takes[2]!.id);
    expect(await listed()).toEqual([takes[1]!.id]);
    expect(await storedFiles()).toEqual([...filesOf(takes[0]!), ...filesOf(takes[1]!)].toSorted());
    expect((await holdfast.json<Backup>('backup', 'show', takes[1]!.id)).endOfChain).toBe(true);
    const next = await holdfast.take('del-1', '--quiesce', 'none');
    expect(next).toMatchObject({ type: 'full', disks: [{ fullReason: 'parent-missing' }] });
    const activeImages = { vda: guest.disks[0]!.path };
    await expectVmClean(host, 'del-1', { activeImages, checkpoints: liveCheckpoints(next) });
    takes.push(next);
  });

  it('expunges hidden ancestors with their last descendant; a repository that is gone stops it, a repeat ends clean', async () => {
    await rename(holdfast.repositoryDir, `${holdfast.repositoryDir}.away`);
    const stopped = await holdfast.cli('backup', 'delete', takes[1]!.id, '--json');
    expect(stopped.exitCode).toBe(1);
    expect(JSON.parse(stopped.stderr)).toMatchObject({ error: { type: 'RepositoryUnavailable' } });
    await rename(`${holdfast.repositoryDir}.away`, holdfast.repositoryDir);
    expect(await listed()).toContain(takes[1]!.id);
    const plan = await holdfast.json<DeletePlan>('backup', 'delete', takes[1]!.id);
    expect(plan.expunge.map(({ id }) => id)).toEqual([takes[1]!.id, takes[0]!.id]);
    expect(await listed()).toEqual([takes[3]!.id]);
    expect(await storedFiles()).toEqual(filesOf(takes[3]!));
  });

  it('finishes a chain once, and says so when there is none', async () => {
    const before = await holdfast.json<{ chains: { open: boolean; backups: Backup[] }[] }>('chain', 'show', 'del-1');
    expect(before.chains.map(({ open, backups }) => ({ open, ids: backups.map(({ id }) => id) }))).toEqual([
      { open: true, ids: [takes[3]!.id] },
    ]);
    expect(await holdfast.json('chain', 'finish', 'del-1')).toMatchObject({
      chains: [takes[3]!.chainId],
      repaired: [],
    });
    await expectVmClean(host, 'del-1', { activeImages: { vda: guest.disks[0]!.path } });
    const again = await holdfast.cli('chain', 'finish', 'del-1', '--json');
    expect(again.exitCode).toBe(1);
    expect(JSON.parse(again.stderr)).toMatchObject({ error: { type: 'NotProtected' } });
    expect(await holdfast.take('del-1', '--quiesce', 'none')).toMatchObject({
      type: 'full',
      disks: [{ fullReason: 'requested' }],
    });
  });
});
