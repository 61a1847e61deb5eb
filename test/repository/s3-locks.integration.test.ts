import { ListObjectVersionsCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { randomUUID } from 'node:crypto';
import { isLocked, lockBackup } from '../../activities/host/lock-backup.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { manifestKey } from '../../repository/layout.ts';
import { createManifest } from '../../repository/manifest.ts';
import { createS3Store } from '../../repository/s3-store.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import type { S3Place } from '../../schemas/repository.ts';
import { manifestOf } from '../support/sample-manifest.ts';
import { until } from '../support/processes.ts';
import { missingS3Server, S3_SERVERS, startS3Server, type S3Server } from '../support/s3-server.ts';

const SECOND = 1000;
const DAY = 86_400 * SECOND;

describe.each(S3_SERVERS)('locked blobs on %s', (kind) => {
  const missing = missingS3Server(kind);
  describe.skipIf(missing !== undefined)(missing ?? 'in a bucket with object lock', () => {
    let server: S3Server;
    let place: S3Place;
    let store: BlobStore;
    beforeAll(async () => {
      server = await startS3Server(kind, { versions: true });
    });
    afterAll(async () => await server[Symbol.asyncDispose]());
    beforeEach(async () => {
      place = await server.newPlace('p', { objectLock: true });
      store = createS3Store(place);
      await store.putBlob('a/b.json', Buffer.from('first'));
    });

    const lock = (untilMs: number) => store.locks!.lock('a/b.json', { mode: 'governance', untilMs });
    const lockedUntil = async () => Math.floor((await store.locks!.lockedUntilMs('a/b.json'))! / SECOND);

    it('can be had', async () => {
      expect(await store.locks!.problem()).toBeUndefined();
      expect(await createS3Store(await server.newPlace()).locks!.problem()).toMatch(/no object lock/);
    });

    it('cannot be removed, nor moved over, and say until when', async () => {
      const untilMs = Date.now() + DAY;
      await lock(untilMs);
      const date = new Date(Math.floor(untilMs / SECOND) * SECOND).toISOString().slice(0, 19);
      const refusal = { code: 'locked', message: expect.stringContaining(`until ${date}`) as string };
      await expect(store.deleteBlob('a/b.json')).rejects.toMatchObject(refusal);
      await store.putBlob('a/other.json', Buffer.from('other'));
      await expect(store.moveBlob('a/other.json', 'a/b.json')).rejects.toMatchObject(refusal);
      expect((await store.getBlob('a/b.json')).toString()).toBe('first');
    });

    it('stay locked when they are replaced, the former content behind them', async () => {
      const untilMs = Date.now() + DAY;
      await lock(untilMs);
      await store.putBlob('a/b.json', Buffer.from('second'), { replace: true });
      expect((await store.getBlob('a/b.json')).toString()).toBe('second');
      expect(await lockedUntil()).toBe(Math.floor(untilMs / SECOND));
    });

    it('are locked for longer, never for less', async () => {
      const [soon, late] = [Date.now() + DAY, Date.now() + 2 * DAY];
      await lock(soon);
      await lock(late);
      await lock(soon);
      expect(await lockedUntil()).toBe(Math.floor(late / SECOND));
    });

    it('go with all their versions once the time is over', async () => {
      await lock(Date.now() + 3 * SECOND);
      await store.putBlob('a/b.json', Buffer.from('second'), { replace: true });
      await until('the lock is over', async () => (await store.locks!.lockedUntilMs('a/b.json')) === undefined);
      await store.deleteBlob('a/b.json');
      await store.deleteBlob('a/b.json');
      expect(await store.statBlob('a/b.json')).toBeUndefined();
      const client = new S3Client({
        endpoint: server.endpoint,
        credentials: server.keys,
        region: 'us-east-1',
        forcePathStyle: true,
      });
      const { Versions = [], DeleteMarkers = [] } = await client.send(
        new ListObjectVersionsCommand({ Bucket: place.bucket }),
      );
      expect([...Versions, ...DeleteMarkers]).toEqual([]);
    });

    it('stay as long as what is built on them: an increment makes the locks of its parents longer', async () => {
      const id = randomUUID();
      await initRepository(store, { id });
      const settings = {
        encryption: null,
        identity: null,
        immutability: { mode: 'governance' as const, days: 7 },
        owner: null,
      };
      const repository = { name: 'r', id, location: place, slots: 1, createdAt: new Date(0).toISOString(), settings };
      const [first, second] = [Date.now() - 3 * DAY, Date.now()];
      const full = manifestOf(randomUUID(), { instant: new Date(first).toISOString() });
      const [disk] = full.disks;
      const file = disk!.file.replace('full', 'incr');
      const next = manifestOf(randomUUID(), {
        type: 'incremental',
        parentId: full.id,
        instant: new Date(second).toISOString(),
        disks: [
          {
            ...disk!,
            type: 'incremental',
            file,
            backingFile: disk!.file,
            sums: { ...disk!.sums, file: `${file}.sums` },
          },
        ],
      });
      const keysOf = ({ id: backupId, vm, disks }: Manifest): string[] => [
        ...disks.flatMap(({ file: key, sums }) => [key, sums.file]),
        manifestKey(vm.uuid, backupId),
      ];
      const locksOf = async (manifest: Manifest): Promise<(number | undefined)[]> =>
        await Promise.all(keysOf(manifest).map((key) => store.locks!.lockedUntilMs(key)));
      const inSeconds = (ms: number): number => Math.floor(ms / SECOND) * SECOND;
      for (const [manifest, instantMs, locked] of [
        [full, first, [full]],
        [next, second, [full, next]],
      ] as const) {
        for (const { file: key, sums, storedBytes } of manifest.disks) {
          await store.putBlob(key, Buffer.alloc(storedBytes));
          await store.putBlob(sums.file, Buffer.from('sums'));
        }
        await createManifest(store, manifest);
        const backup = { vmUuid: manifest.vm.uuid, id: manifest.id, instant: manifest.instant };
        expect(await isLocked(store, repository, backup)).toBe(false);
        await lockBackup(store, repository, backup);
        expect(await isLocked(store, repository, backup)).toBe(true);
        const untilMs = inSeconds(instantMs + 7 * DAY);
        for (const one of locked) {
          expect((await locksOf(one)).map((ms) => inSeconds(ms ?? 0))).toEqual([untilMs, untilMs, untilMs]);
        }
      }
      await expect(store.deleteBlob(disk!.file)).rejects.toMatchObject({ code: 'locked' });
    });

    it('are none where nothing was locked', async () => {
      expect(await store.locks!.lockedUntilMs('a/b.json')).toBeUndefined();
      expect(await store.locks!.lockedUntilMs('a/none.json')).toBeUndefined();
      await expect(store.locks!.lock('a/none.json', { mode: 'governance', untilMs: DAY })).rejects.toMatchObject({
        code: 'not-found',
      });
    });
  });
});

it.skipIf(missingS3Server('versitygw') !== undefined)(
  'a bucket that locks but keeps no versions is refused',
  async () => {
    await using server = await startS3Server('versitygw');
    const store = createS3Store(await server.newPlace('p', { objectLock: true }));
    expect(await store.locks!.problem()).toMatch(/no versions/);
  },
);
