import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlobStore } from '../../repository/blob-store.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { CheckedRepository } from '../../schemas/check.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import type { RescannedRepository } from '../../workflows/rescan-repository.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { newKeyPair } from '../support/encrypted-chain.ts';
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.ts';
import { createGuest, type Guest } from '../support/guest.ts';
import { startInstallation, type TestInstallation } from '../support/installation.ts';
import { startKvmHost, type KvmHost } from '../support/kvm-host.ts';
import { until } from '../support/processes.ts';
import { missingS3Server, startS3Server, type S3Server } from '../support/s3-server.ts';
import { tempDir, type TempDir } from '../support/temp.ts';
import { expectOnlyCheckpointOf, kindsOf, MiB, PatternedDisk } from '../support/test-bed.ts';

type PlaceKind = 'directory' | 's3';

/** Where a repository lies, as tests look at it; of a bucket through a proxy, whose server keeps objects as files. */
interface Place {
  args: string[];
  root: string;
}

const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'a repository without its catalog', () => {
  describe.each<PlaceKind>(['directory', 's3'])('in a place of kind %s', withoutCatalog);
});

/** What somebody kept: a repository and the hosts. Catalog and Temporal of the first installation are gone. */
function withoutCatalog(kind: PlaceKind): void {
  let dir: TempDir;
  let server: S3Server;
  let proxy: FaultProxy;
  let host: KvmHost;
  let holdfast: TestInstallation;
  let guest: Guest;
  let veiled: Guest;
  let safe: Place;
  let store: BlobStore;
  let keyFile: string;
  let before: Backup[];
  let hiddenBefore: Backup[];
  const vda = new PatternedDisk(0, 32 * MiB);
  const hiddenDisk = new PatternedDisk(0, 16 * MiB);
  const blob = (key: string): string => join(safe.root, key);
  const take = async (...flags: string[]): Promise<Backup> =>
    await holdfast.take('kept', '--quiesce', 'none', '--repo', 'safe', '--compression', 'none', ...flags);
  const ls = async (...vm: string[]): Promise<Backup[]> =>
    await holdfast.json<Backup[]>('backup', 'ls', ...vm, '--all');
  const rescan = async (name: string): Promise<RescannedRepository> =>
    await holdfast.json<RescannedRepository>('repo', 'rescan', name);

  async function newPlace(name: string): Promise<Place> {
    if (kind === 'directory') return { args: [join(dir.path, name), '--name', name], root: join(dir.path, name) };
    const { bucket, prefix } = await server.newPlace();
    const reached = ['--endpoint', proxy.endpoint, '--path-style', '--credentials-file', server.credentialsFile];
    return {
      args: [`s3://${bucket}/${prefix}`, '--name', name, ...reached],
      root: join(server.dataDir, bucket, prefix),
    };
  }

  beforeAll(async () => {
    dir = await tempDir();
    server = await startS3Server('versitygw');
    proxy = await startFaultProxy(server);
    host = await startKvmHost({ name: 'kvm-rescan', dir: join(dir.path, 'h') });
    const guestOf = async (name: string, sizeBytes: number): Promise<Guest> => {
      const made = await createGuest(host, {
        name,
        dir: join(dir.path, 'vm', name),
        disks: [{ target: 'vda', sizeBytes, format: 'qcow2', fs: 'none' }],
      });
      await host.libvirt.create(made.dom);
      return made;
    };
    guest = await guestOf('kept', 32 * MiB);
    veiled = await guestOf('veiled', 16 * MiB);
    holdfast = await startInstallation({ host, dir: join(dir.path, 'first') });
    safe = await newPlace('safe');
    await holdfast.json('repo', 'add', ...safe.args);
    await vda.write(guest, 0, 4 * MiB, 0x31);
    await take();
    await vda.write(guest, 8 * MiB, MiB, 0x32);
    await take('--full');
    await vda.write(guest, 12 * MiB, MiB, 0x33);
    await take();
    const { identity, recipient } = await newKeyPair();
    keyFile = join(dir.path, 'key');
    await writeFile(keyFile, `${identity}\n`, { mode: 0o600 });
    const hidden = await newPlace('hidden');
    await holdfast.json('repo', 'add', ...hidden.args, '--encrypt', '--hide-names', '--recipient', recipient);
    await hiddenDisk.write(veiled, MiB, 2 * MiB, 0x41);
    await holdfast.take('veiled', '--quiesce', 'none', '--repo', 'hidden');
    before = await ls('kept');
    hiddenBefore = await ls('veiled');
    await holdfast[Symbol.asyncDispose]();
    holdfast = await startInstallation({ host, dir: join(dir.path, 'second') });
    const added = await holdfast.json<RepositoryRecord>('repo', 'add', ...safe.args, '--take-over');
    store = openBlobStore(added.location);
    await holdfast.json('repo', 'add', ...hidden.args, '--take-over');
  });
  afterAll(async () => {
    await holdfast[Symbol.asyncDispose]();
    await host[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  });

  it('is taken over by a rescan, backups as they were', async () => {
    const dry = await holdfast.json<RescannedRepository>('repo', 'rescan', 'safe', '--dry-run');
    expect(dry).toMatchObject({ dryRun: true, manifests: 3, added: 3 });
    expect(await ls()).toEqual([]);
    expect(await rescan('safe')).toMatchObject({ vms: 1, manifests: 3, added: 3, changed: 0, told: [] });
    expect(await ls()).toEqual(before);
    expect(await rescan('safe')).toMatchObject({ added: 0, changed: 0, told: [] });
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
    /** By a plain write of the whole file, or object, as any other program may do. */
    const flip = async (): Promise<void> => {
      const content = await store.getBlob(file, { maxBytes: 32 * MiB });
      content[200_000]! ^= 0x01; // in the middle of the data
      await store.putBlob(file, content, { replace: true });
    };
    const marked = async (): Promise<string[]> =>
      (await holdfast.json<(Backup & { damage?: string })[]>('backup', 'ls')).flatMap(({ id, damage }) =>
        damage === undefined ? [] : [id],
      );
    // Newest first: the increment on the full, the full, and the first backup, whose chain is over.
    const full = (): Backup => before[1] as Backup;

    it('marks the backup and all that is built on it, and those only', async () => {
      expect(await check()).toMatchObject({ exitCode: 0, files: 4, damagedFiles: 0 });
      expect(await check('--sample', '25%')).toMatchObject({ files: 1, damagedFiles: 0 });
      file = full().disks[0]?.file ?? '';
      await flip();
      const checked = await check('--vm', 'kept');
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

    it('reads no faster than it was told, small files neither', async () => {
      const { jobId } = await holdfast.json<{ jobId: string }>('repo', 'check', 'safe', '--rate', '4M', '--no-wait');
      const handle = (await holdfast.client()).workflow.getHandle(jobId);
      const { bytes, files } = (await handle.result()) as CheckedRepository;
      expect({ files, bytes }).toEqual({
        files: 5,
        bytes: (await ls('kept')).reduce((sum, b) => sum + b.storedBytes, 0),
      });
      const seconds = await secondsOf('verifyStored', handle);
      expect(bytes / seconds).toBeLessThanOrEqual(4 * MiB);
    });

    it.runIf(kind === 's3')('goes on after its worker was killed, with the files that were not read yet', async () => {
      const job = await holdUp();
      await holdfast.kill('host');
      proxy.seen.length = 0;
      proxy.onRequest = () => undefined;
      const handle = (await holdfast.client()).workflow.getHandle(job);
      expect(await handle.result()).toMatchObject({ files: 5, damagedFiles: 0 });
      const read = proxy.seen.flatMap(({ method, url }) => (method === 'GET' ? (url.split('?')[0] ?? '') : []));
      expect(new Set(read.filter((path) => path.endsWith('.qcow2')))).toEqual(
        new Set([expect.stringContaining(file) as string]),
      );
      await holdfast.isBack('host');
    });

    it.runIf(kind === 's3')('ends when it is cancelled, and has marked nothing', async () => {
      const job = await holdUp();
      expect(await holdfast.json('job', 'cancel', job)).toMatchObject({ status: 'CANCELLED' });
      proxy.onRequest = () => undefined;
      expect(await marked()).toEqual([]);
      expect(await check()).toMatchObject({ exitCode: 0, files: 5 });
    });

    it.runIf(kind === 'directory')(
      'is run by the clock for what was not compared for so long, and for that only',
      async () => {
        await holdfast.json(
          'schedule',
          'create',
          'nightly',
          '--check',
          'safe',
          '--every',
          '1d',
          '--verify-within',
          '30d',
        );
        expect(await holdfast.json('schedule', 'run', 'nightly')).toMatchObject({ files: 0, damagedFiles: 0 });
        const [newest] = await ls('kept');
        using catalog = new DatabaseSync(join(holdfast.dataDir, 'catalog.sqlite'), { timeout: 10_000 });
        const long = new Date(Date.now() - 29.5 * 86_400_000).toISOString(); // 30 days would be over before the next run
        catalog.prepare('update backup_disks set verified_at = ? where backup_id = ?').run(long, newest?.id ?? '');
        await flip();
        expect(await holdfast.json('schedule', 'run', 'nightly')).toMatchObject({
          files: 1,
          bytes: newest?.storedBytes,
          damagedFiles: 0,
        });
        catalog.prepare('update backup_disks set verified_at = ? where backup_id = ?').run(long, full().id);
        const found = await holdfast.cli('--json', 'schedule', 'run', 'nightly');
        expect(found.exitCode).toBe(1);
        expect(JSON.parse(found.stdout)).toMatchObject({
          files: 1,
          damagedFiles: 1,
          damaged: [{ backupId: full().id }],
        });
        await flip();
        expect(await check()).toMatchObject({ exitCode: 0, files: 5 });
      },
    );

    /** A check of which every file is read but one, whose bytes the server withholds; its job. */
    async function holdUp(): Promise<string> {
      proxy.onRequest = ({ method, url }) =>
        method === 'GET' && url.split('?')[0]?.endsWith(file) === true ? { kind: 'hold' } : undefined;
      const { jobId } = await holdfast.json<{ jobId: string }>('repo', 'check', 'safe', '--no-wait');
      const handle = (await holdfast.client()).workflow.getHandle(jobId);
      await until('all other files are read', async () => {
        const { raw } = await handle.describe();
        const [payload] = raw.pendingActivities?.[0]?.heartbeatDetails?.payloads ?? [];
        if (payload?.data == null) return false;
        return (JSON.parse(Buffer.from(payload.data).toString()) as { right: number[] }).right.length === 4;
      });
      return jobId;
    }
  });

  it('marks a backup whose file is gone, with all that is built on it, and takes it back when it is there again', async () => {
    const gone = before[1]?.disks[0]?.file ?? '';
    const content = await store.getBlob(gone, { maxBytes: 32 * MiB });
    await store.deleteBlob(gone);
    const states = async (): Promise<string[]> => (await ls('kept')).map(({ state }) => state);
    expect((await rescan('safe')).findings).toMatchObject({ missing: 3, damaged: 0, surplus: 0 });
    expect(await states()).toEqual(['BackedUp', 'Error', 'Error', 'Error', 'BackedUp']);
    await store.putBlob(gone, content.subarray(1));
    expect((await rescan('safe')).findings).toMatchObject({ missing: 0, damaged: 3, surplus: 0 });
    await store.putBlob(gone, content, { replace: true });
    expect(await rescan('safe')).toMatchObject({ changed: 3, told: [] });
    expect(await states()).toEqual(['BackedUp', 'BackedUp', 'BackedUp', 'BackedUp', 'BackedUp']);
  });

  it('tells what no manifest names, and leaves it where it is', async () => {
    const key = `${guest.uuid}/disk-0/full-20200101-000000.qcow2`;
    await store.putBlob(key, Buffer.from('surplus'));
    expect(await rescan('safe')).toMatchObject({
      surplusBytes: 7,
      told: [{ sort: 'surplus', message: expect.stringContaining(key) as string }],
    });
    expect(await store.statBlob(key)).toMatchObject({ sizeBytes: 7 });
  });

  describe('with hidden names', () => {
    it('says what is needed, and lists its backups by the UUID of their VM', async () => {
      const { added, told } = await rescan('hidden');
      expect({ added, told }).toMatchObject({ added: 1, told: [{ sort: 'sealed', vmUuid: veiled.uuid }] });
      expect(told[0]?.message).toContain('holdfast repo set hidden --identity-file');
      expect((await ls()).find(({ repository }) => repository === 'hidden')).toMatchObject({
        vm: { uuid: veiled.uuid, name: veiled.uuid },
      });
    });

    it('has them back as they were with the identity, and goes on with the chain', async () => {
      await holdfast.json('repo', 'set', 'hidden', '--identity-file', keyFile);
      expect(await rescan('hidden')).toMatchObject({ added: 0, changed: 1, told: [] });
      expect(await ls('veiled')).toEqual(hiddenBefore);
      expect(await rescan('hidden')).toMatchObject({ changed: 0, told: [] });
      await hiddenDisk.write(veiled, 8 * MiB, MiB, 0x42);
      const after = await holdfast.take('veiled', '--quiesce', 'none', '--repo', 'hidden');
      expect(kindsOf(after)).toEqual({ vda: 'incremental' });
      expect(after.disks[0]?.changedBytes).toBe(MiB);
      const { disks } = await holdfast.restore(after.id, '--as', 'unveiled');
      expect(await sha256OfImage(disks[0]?.path ?? '', 'qcow2')).toBe(hiddenDisk.sha256);
    });
  });
}

/** How long an activity was at work, each call by its last attempt. */
async function secondsOf(activity: string, handle: WorkflowHandle): Promise<number> {
  const { events } = await handle.fetchHistory();
  const byId = new Map((events ?? []).map((event) => [String(event.eventId), event]));
  const msOf = (id: unknown): number => {
    const time = byId.get(String(id))?.eventTime;
    return Number(time?.seconds ?? 0) * 1000 + (time?.nanos ?? 0) / 1e6;
  };
  let ms = 0;
  for (const { eventId, activityTaskCompletedEventAttributes: completed } of byId.values()) {
    const scheduled = byId.get(String(completed?.scheduledEventId))?.activityTaskScheduledEventAttributes;
    if (scheduled?.activityType?.name === activity) ms += msOf(eventId) - msOf(completed?.startedEventId);
  }
  return ms / 1000;
}
