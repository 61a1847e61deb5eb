import { writeFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlobStore, PartSink } from '../../repository/blob-store.ts';
import { createS3Store } from '../../repository/s3-store.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { S3Place } from '../../schemas/repository.ts';
import type { ReclaimedOrphans } from '../../workflows/reclaim-orphans.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.ts';
import type { Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
import { run as runProgram } from '../support/run.ts';
import { missingS3Server, startS3Server, type S3Server } from '../support/s3-server.ts';
import {
  expectOnlyCheckpointOf,
  expectStored,
  kindsOf,
  MiB,
  PatternedDisk,
  resultOf,
  startTestBed,
  type TestBed,
} from '../support/test-bed.ts';

const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'backups to a bucket', () => {
  let server: S3Server;
  let proxy: FaultProxy;
  let bed: TestBed;
  let guest: Guest;
  let place: S3Place;
  let store: BlobStore;
  const vda = new PatternedDisk(0, 64 * MiB);
  beforeAll(async () => {
    server = await startS3Server('versitygw', { versions: true });
    proxy = await startFaultProxy(server);
    const { bucket, prefix, credentials } = await server.newPlace();
    // The workers find the keys where any other AWS tool does.
    bed = await startTestBed('kvm-s3', {
      repository: [`s3://${bucket}/${prefix}`, '--endpoint', proxy.endpoint, '--path-style'],
      env: { AWS_ACCESS_KEY_ID: server.keys.accessKeyId, AWS_SECRET_ACCESS_KEY: server.keys.secretAccessKey },
    });
    const [main] = await bed.holdfast.json<{ name: string; location: S3Place }[]>('repo', 'ls');
    expect(main).toMatchObject({ name: 'main', location: { kind: 's3', credentials: { kind: 'chain' } } });
    place = { ...main!.location, credentials };
    store = createS3Store(place);
    guest = await bed.guest({
      name: 'remote',
      disks: [{ target: 'vda', sizeBytes: 64 * MiB, format: 'qcow2', fs: 'none' }],
    });
    await bed.host.libvirt.create(guest.dom);
    await vda.write(guest, 0, 48 * MiB, 0x41);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  });

  const take = (request: Parameters<TestBed['take']>[1] = {}) =>
    bed.take('remote', { repository: 'main', compression: 'none', ...request });
  const start = (request: object = {}) =>
    bed.start('takeBackup', { vm: 'remote', quiesce: 'none', repository: 'main', compression: 'none', ...request });
  /** versitygw keeps each object as a file, so that QEMU's own tools can look at the chain. */
  const expectInBucket = (backup: Backup) =>
    expectStored({ ...bed.holdfast, blob: (key) => join(server.dataDir, place.bucket, place.prefix, key) }, backup, {
      vda,
    });
  const uploads = async (): Promise<string[]> => (await Array.fromAsync(store.listUploads(''))).map(({ key }) => key);

  /** Holds every part behind the first two that come, once they are stored; what is held never gets an answer. */
  function holdAfterTwoParts() {
    const passed: string[] = [];
    const held = Promise.withResolvers<undefined>();
    proxy.onRequest = ({ method, url }) => {
      const number = /[?&]partNumber=(\d+)/.exec(url)?.[1];
      if (method !== 'PUT' || number === undefined) return undefined;
      if (passed.length < 2) {
        passed.push(number);
        return undefined;
      }
      held.resolve(undefined);
      return { kind: 'hold' };
    };
    return {
      passed,
      held: async () => {
        await held.promise;
        const [key] = await uploads();
        await until('two parts are stored', async () => {
          const [found] = await Array.fromAsync(store.listUploads(''));
          return (found?.sizeBytes ?? 0) >= 10 * MiB;
        });
        return key!;
      },
      release: () => (proxy.onRequest = () => undefined),
    };
  }

  let first: Backup;
  it('are chains that QEMU reads, and come back byte by byte', async () => {
    first = await take();
    expect(kindsOf(first)).toEqual({ vda: 'full: first-backup' });
    await expectInBucket(first);
    await vda.write(guest, 5 * MiB, 2 * MiB, 0x42);
    const second = await take();
    expect(kindsOf(second)).toEqual({ vda: 'incremental' });
    await expectInBucket(second);
    expect(await uploads()).toEqual([]);
    await expectOnlyCheckpointOf(guest, second);
    const { disks } = await bed.restore(second.id, { as: 'remote-copy' });
    expect(disks).toMatchObject([{ target: 'vda', verified: true }]);
    expect(await sha256OfImage(disks[0]!.path, 'qcow2')).toBe(vda.sha256);
    await rm(disks[0]!.path);
    first = second;
  });

  it('go on with the parts that are stored when the worker is killed in mid-upload', async () => {
    const hold = holdAfterTwoParts();
    const run = await start({ full: true });
    await hold.held();
    await bed.holdfast.kill('host');
    proxy.seen.length = 0;
    hold.release();
    first = await resultOf<Backup>(run);
    const again = proxy.seen.flatMap(({ method, url }) =>
      method === 'PUT' ? (/[?&]partNumber=(\d+)/.exec(url)?.[1] ?? []) : [],
    );
    expect(hold.passed).toHaveLength(2);
    expect(again.length).toBeGreaterThan(0);
    expect(again.filter((number) => hold.passed.includes(number))).toEqual([]);
    expect(await uploads()).toEqual([]);
    await expectInBucket(first);
    await expectOnlyCheckpointOf(guest, first);
  });

  it('leave no upload and nothing on the VM when they are cancelled', async () => {
    const hold = holdAfterTwoParts();
    const run = await start({ full: true });
    const key = await hold.held();
    await run.cancel();
    await expect(resultOf(run)).rejects.toThrow(/^Cancelled/);
    hold.release();
    expect(await uploads()).toEqual([]);
    expect(await store.statBlob(key)).toBeUndefined();
    await expectOnlyCheckpointOf(guest, first);
  });

  it('end and leave nothing when the host has no room for notes, in mid-copy or from the beginning', async () => {
    const notes = join(bed.holdfast.dataDir, 'hosts', bed.host.name, 'captures');
    await mkdir(notes, { recursive: true });
    await runProgram('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', notes]);
    try {
      let isFull = false;
      proxy.onRequest = ({ url }) => {
        if (isFull || !url.includes('partNumber=')) return undefined;
        isFull = true;
        expect(() => writeFileSync(join(notes, 'ballast'), Buffer.alloc(MiB))).toThrow('ENOSPC');
        return undefined;
      };
      for (const [when, wasFull] of [
        ['in mid-copy', false],
        ['at the beginning', true],
      ] as const) {
        expect(isFull, when).toBe(wasFull);
        await expect(take({ full: true }), when).rejects.toThrow(
          /^HostFull: VM remote: no space is left on host kvm-s3/,
        );
        expect(await uploads(), when).toEqual([]);
        await expectOnlyCheckpointOf(guest, first);
      }
    } finally {
      proxy.onRequest = () => undefined;
      await runProgram('umount', [notes]);
    }
  });

  it('that were forgotten are reclaimed, and what manifests name stays', async () => {
    const named = first.disks[0]!.file;
    const forgotten = `${guest.uuid}/disk-0/full-20200101-000000.qcow2`;
    const { sink } = await store.createUpload(forgotten, { expectedBytes: 0 });
    await (sink as PartSink).putPart(1, Buffer.alloc(5 * MiB), { signal: new AbortController().signal });
    const reclaimed = await bed.holdfast.json<ReclaimedOrphans>('reclaim', '--grace', '0');
    expect(reclaimed).toMatchObject({ found: [expect.stringContaining(forgotten) as string], problems: [] });
    expect(await uploads()).toEqual([]);
    expect(await store.statBlob(named)).toMatchObject({ key: named });
  });

  describe('in a bucket with object lock', () => {
    const DAYS = 30;
    let vault: BlobStore;
    beforeAll(async () => {
      const { bucket, prefix } = await server.newPlace('vault', { objectLock: true });
      const { location } = await bed.holdfast.json<{ location: S3Place }>(
        ...['repo', 'add', `s3://${bucket}/${prefix}`, '--name', 'vault', '--path-style'],
        ...['--endpoint', proxy.endpoint, '--credentials-file', server.credentialsFile],
      );
      vault = createS3Store(location);
      await bed.holdfast.json('repo', 'lock', 'vault', '--days', String(DAYS));
    });

    /** Takes a backup whose manifest is written and whose first lock never gets an answer. */
    async function takeWithoutLock() {
      const held = Promise.withResolvers<undefined>();
      proxy.onRequest = ({ method, url }) => {
        if (method !== 'PUT' || !/[?&]retention/.test(url)) return undefined;
        held.resolve(undefined);
        return { kind: 'hold' };
      };
      const run = await start({ repository: 'vault' });
      await held.promise;
      return run;
    }
    const expectLocked = async ({ id, instant, disks }: Backup): Promise<void> => {
      const keys = [...disks.flatMap(({ file }) => [file, `${file}.sums`]), `${guest.uuid}/backups/${id}.json`];
      const until = await Promise.all(keys.map((key) => vault.locks!.lockedUntilMs(key)));
      const seconds = Math.floor(Date.parse(instant!) / 1000) + DAYS * 86_400;
      expect(until.map((ms) => Math.floor((ms ?? 0) / 1000))).toEqual(keys.map(() => seconds));
    };

    it('are locked by the next worker when one is killed between manifest and lock', async () => {
      const run = await takeWithoutLock();
      await bed.holdfast.kill('host');
      proxy.onRequest = () => undefined;
      first = await resultOf<Backup>(run);
      await expectLocked(first);
    });

    it('are listed and locked by reclaim when their run is ended by force between manifest and lock', async () => {
      const run = await takeWithoutLock();
      await run.terminate();
      await bed.holdfast.kill('host');
      proxy.onRequest = () => undefined;
      await bed.holdfast.isBack('host');
      await bed.holdfast.json('reclaim', '--grace', '0');
      const [listed] = await bed.holdfast.json<Backup[]>('backup', 'ls', 'remote');
      expect(listed).toMatchObject({ state: 'BackedUp', repository: 'vault', type: 'incremental', parentId: first.id });
      await expectLocked(listed!);
      first = listed!;
    });

    it('are locked by reclaim when they were stored before anything was promised', async () => {
      await bed.holdfast.json('repo', 'lock', 'vault', '--off');
      first = await take({ repository: 'vault' });
      await bed.holdfast.json('repo', 'lock', 'vault', '--days', String(DAYS));
      const found = [expect.stringContaining(`backup ${first.id} was not locked`) as string];
      expect(await bed.holdfast.json('reclaim', '--dry-run')).toMatchObject({ found });
      expect(await bed.holdfast.json('reclaim')).toMatchObject({ found, problems: [] });
      await expectLocked(first);
      expect(await bed.holdfast.json('reclaim')).toMatchObject({ found: [], problems: [] });
      const checkpoints = await guest.libvirt.checkpointList(guest.dom); // of two repositories
      await expectOnlyCheckpointOf(guest, first, { checkpoints });
    });
  });
});
