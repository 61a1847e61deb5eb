import { randomBytes } from 'node:crypto';
import { beforeEach, describe, expect, it } from 'vitest';
import type { BlobStore, BlobStoreErrorCode, BlobUpload } from '../../repository/blob-store.ts';
import { BlobStoreError } from '../../repository/blob-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { openSink } from '../../repository/sink.ts';
import { openSource } from '../../repository/source.ts';

/** A matcher for `rejects.toSatisfy`. */
export const hasStoreCode = (code: BlobStoreErrorCode) => (error: unknown) =>
  error instanceof BlobStoreError && error.code === code;

export const REPOSITORY_ID = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';

/** Keys that must never reach the storage. */
export const HOSTILE_KEYS = [
  '',
  '/',
  '/etc/passwd',
  '..',
  '../outside',
  'a/../../outside',
  'a/./b',
  'a//b',
  'a/',
  '.hidden',
  'a/.upload-b',
  'a/.tmp-b',
  'a\\b',
  'a b',
  'a\u0000b',
  'a\nb',
  'é',
  '-rf',
  'a/-rf',
  'x'.repeat(201),
  'x/'.repeat(600) + 'x',
];

const collect = async (store: BlobStore, prefix: string): Promise<string[]> =>
  (await Array.fromAsync(store.listBlobs(prefix))).map((blob) => blob.key);

const MIB = 1024 * 1024;

/** Writes the stretches of an upload in this order: as they are into a file, as one part each into a bucket. */
export async function writeStretches(
  { sink }: Pick<BlobUpload, 'sink'>,
  stretches: { part: number; offset: number; bytes: Uint8Array }[],
): Promise<void> {
  if (sink.kind === 'parts') {
    for (const { part, bytes } of stretches) await sink.putPart(part, bytes, { signal: new AbortController().signal });
    return;
  }
  await using file = await openSink(sink);
  for (const { offset, bytes } of stretches) await file.write(offset, bytes);
}

/**
 * What every blob store promises, as tests. `open` gives a store of an empty place; `reopen` another store of the
 * same place, as a process that was restarted would open it.
 */
export function blobStoreSuite(open: () => Promise<{ store: BlobStore; reopen: () => BlobStore }>): void {
  let store: BlobStore;
  let reopen: () => BlobStore;

  beforeEach(async () => {
    ({ store, reopen } = await open());
    await initRepository(store, { id: REPOSITORY_ID });
  });

  async function upload(key: string, content: Uint8Array): Promise<void> {
    const draft = await store.createUpload(key, { expectedBytes: content.length });
    await writeStretches(draft, [{ part: 1, offset: 0, bytes: content }]);
    await draft.finish(content.length);
  }

  describe('small blobs', () => {
    it('are read as they were put', async () => {
      await store.putBlob('vm/backups/one.json', Buffer.from('content'));
      expect((await reopen().getBlob('vm/backups/one.json')).toString()).toBe('content');
      expect(await store.statBlob('vm/backups/one.json')).toMatchObject({ key: 'vm/backups/one.json', sizeBytes: 7 });
    });

    it('may be put again with the same bytes', async () => {
      await store.putBlob('a', Buffer.from('same'));
      await store.putBlob('a', Buffer.from('same'));
      expect((await store.getBlob('a')).toString()).toBe('same');
    });

    it('are not overwritten by other bytes', async () => {
      await store.putBlob('a', Buffer.from('first'));
      await expect(store.putBlob('a', Buffer.from('other'))).rejects.toSatisfy(hasStoreCode('exists'));
      expect((await store.getBlob('a')).toString()).toBe('first');
    });

    it('are swapped whole with `replace`', async () => {
      await store.putBlob('a', Buffer.from('a longer first content'));
      await store.putBlob('a', Buffer.from('second'), { replace: true });
      expect((await store.getBlob('a')).toString()).toBe('second');
      expect(await collect(store, '')).toEqual(['a', 'repository.json']);
    });

    it('have one winner when two writers race', async () => {
      const contents = Array.from({ length: 8 }, (_, index) => Buffer.from(`writer ${index}`));
      const outcomes = await Promise.allSettled(contents.map((content) => reopen().putBlob('raced', content)));
      expect(outcomes.filter((outcome) => outcome.status === 'fulfilled')).toHaveLength(1);
      const winner = outcomes.findIndex((outcome) => outcome.status === 'fulfilled');
      expect(await store.getBlob('raced')).toEqual(contents[winner]);
    });

    it('may be empty', async () => {
      await store.putBlob('empty', Buffer.alloc(0));
      expect(await store.getBlob('empty')).toHaveLength(0);
    });

    it('that are missing are told apart from those that are too large', async () => {
      await expect(store.getBlob('none')).rejects.toSatisfy(hasStoreCode('not-found'));
      await store.putBlob('large', Buffer.alloc(100));
      await expect(store.getBlob('large', { maxBytes: 99 })).rejects.toSatisfy(hasStoreCode('too-large'));
      expect(await store.getBlob('large', { maxBytes: 100 })).toHaveLength(100);
      expect(await store.statBlob('none')).toBeUndefined();
    });
  });

  describe('moving', () => {
    it('puts a blob in the place of another, whole', async () => {
      await upload('vm/disk-0/one', Buffer.alloc(300_000, 1));
      await upload('vm/disk-0/one.rewrite-x', Buffer.alloc(200_000, 2));
      await store.moveBlob('vm/disk-0/one.rewrite-x', 'vm/disk-0/one');
      expect(await reopen().getBlob('vm/disk-0/one')).toEqual(Buffer.alloc(200_000, 2));
      expect(await collect(store, '')).toEqual(['repository.json', 'vm/disk-0/one']);
    });

    it('also goes where nothing is, in another folder', async () => {
      await upload('a/b/one', Buffer.from('content'));
      await store.moveBlob('a/b/one', 'c/two');
      expect(await collect(store, '')).toEqual(['c/two', 'repository.json']);
    });

    it('says so when there is nothing to move, and leaves what is there', async () => {
      await upload('kept', Buffer.from('content'));
      await expect(store.moveBlob('gone', 'kept')).rejects.toSatisfy(hasStoreCode('not-found'));
      expect((await store.getBlob('kept')).toString()).toBe('content');
    });

    it('moves no unfinished upload', async () => {
      await store.createUpload('half', { expectedBytes: 0 });
      await expect(store.moveBlob('half', 'whole')).rejects.toSatisfy(hasStoreCode('not-found'));
      expect(await store.statBlob('whole')).toBeUndefined();
    });

    it.each(['../outside', '/etc/passwd', '.hidden'])('refuses the key %j', async (key) => {
      await upload('one', Buffer.from('content'));
      await expect(store.moveBlob('one', key)).rejects.toSatisfy(hasStoreCode('invalid-key'));
      await expect(store.moveBlob(key, 'one')).rejects.toSatisfy(hasStoreCode('invalid-key'));
    });
  });

  describe('uploads', () => {
    it('take ranges in any order and become a blob at the end', async () => {
      const content = randomBytes(5 * MIB + 200_000);
      const draft = await store.createUpload('vm/disk-0/full.qcow2', { expectedBytes: content.length });
      await writeStretches(draft, [
        { part: 2, offset: 5 * MIB, bytes: content.subarray(5 * MIB) },
        { part: 1, offset: 0, bytes: content.subarray(0, 5 * MIB) },
      ]);
      expect(await store.statBlob(draft.key)).toBeUndefined();
      expect(await collect(store, '')).toEqual(['repository.json']);
      await draft.finish(content.length);
      expect(await store.statBlob(draft.key)).toMatchObject({ sizeBytes: content.length });
      expect((await store.getBlob(draft.key)).equals(content)).toBe(true);
    });

    it('end where `finish` says, also when more was written; of parts none may be surplus', async () => {
      const draft = await store.createUpload('a', { expectedBytes: 0 });
      await writeStretches(draft, [{ part: 1, offset: 0, bytes: Buffer.alloc(8192, 1) }]);
      if (draft.sink.kind === 'parts') {
        await expect(draft.finish(5000)).rejects.toSatisfy(hasStoreCode('unavailable'));
        expect(await store.statBlob('a')).toBeUndefined();
        return;
      }
      await draft.finish(5000);
      expect(await store.getBlob('a')).toEqual(Buffer.alloc(5000, 1));
    });

    it('that lost bytes do not become a blob', async () => {
      const draft = await store.createUpload('a', { expectedBytes: 10 });
      await expect(draft.finish(10)).rejects.toBeInstanceOf(BlobStoreError);
      expect(await store.statBlob('a')).toBeUndefined();
    });

    it('do not take the place of a blob or of another upload', async () => {
      await upload('a', Buffer.from('content'));
      await expect(store.createUpload('a', { expectedBytes: 1 })).rejects.toSatisfy(hasStoreCode('exists'));
      await store.createUpload('b', { expectedBytes: 1 });
      await expect(reopen().createUpload('b', { expectedBytes: 1 })).rejects.toSatisfy(hasStoreCode('exists'));
      expect((await store.getBlob('a')).toString()).toBe('content');
    });

    it('go on in another process by their token, with what was written before', async () => {
      const content = randomBytes(5 * MIB + 10);
      const draft = await store.createUpload('vm/a', { expectedBytes: content.length });
      await writeStretches(draft, [{ part: 1, offset: 0, bytes: content.subarray(0, 5 * MIB) }]);
      const resumed = await reopen().resumeUpload('vm/a', draft.token);
      expect(resumed).toMatchObject({ key: 'vm/a', token: draft.token });
      if (resumed?.sink.kind === 'parts') expect([...(await resumed.sink.storedParts())]).toEqual([[1, 5 * MIB]]);
      await writeStretches(resumed!, [{ part: 2, offset: 5 * MIB, bytes: content.subarray(5 * MIB) }]);
      await resumed!.finish(content.length);
      expect((await store.getBlob('vm/a')).equals(content)).toBe(true);
    });

    it('are not taken over by another token, nor once they are finished or aborted', async () => {
      const draft = await store.createUpload('a', { expectedBytes: 0 });
      expect(await store.resumeUpload('a', 'someone else')).toBeUndefined();
      expect(await store.resumeUpload('a', '')).toBeUndefined();
      expect(await store.resumeUpload('b', draft.token)).toBeUndefined();
      await draft.finish(0);
      expect(await store.resumeUpload('a', draft.token)).toBeUndefined();
      const second = await store.createUpload('b', { expectedBytes: 0 });
      await second.abort();
      expect(await store.resumeUpload('b', second.token)).toBeUndefined();
    });

    it('leave nothing when aborted, twice as well, and the key is free again', async () => {
      const draft = await store.createUpload('vm/disk-0/a', { expectedBytes: 10 });
      await draft.abort();
      await draft.abort();
      expect(await collect(store, '')).toEqual(['repository.json']);
      await upload('vm/disk-0/a', Buffer.from('again'));
      expect((await store.getBlob('vm/disk-0/a')).toString()).toBe('again');
    });

    it('are removed by the key alone, for an owner that lost the token', async () => {
      await store.createUpload('a', { expectedBytes: 10 });
      await store.deleteBlob('a');
      await upload('a', Buffer.from('again'));
    });

    it('are discarded apart from a blob of the same key', async () => {
      await store.createUpload('a', { expectedBytes: 10 });
      await store.discardUploads('a');
      expect(await Array.fromAsync(store.listUploads(''))).toEqual([]);
      await upload('a', Buffer.from('content'));
      await store.discardUploads('a');
      await store.discardUploads('none');
      expect((await store.getBlob('a')).toString()).toBe('content');
    });

    it('that were finished by a try whose answer was lost are finished', async () => {
      const draft = await store.createUpload('a', { expectedBytes: 10 });
      await writeStretches(draft, [{ part: 1, offset: 0, bytes: Buffer.from('0123456789') }]);
      const again = await reopen().resumeUpload('a', draft.token);
      await draft.finish(10);
      await again!.finish(10);
      expect((await store.getBlob('a')).toString()).toBe('0123456789');
    });

    it('are refused at once when the space is not there', async () => {
      const free = await store.freeSpaceBytes();
      if (free === undefined) return;
      const create = store.createUpload('huge', { expectedBytes: free + 2 ** 40 });
      await expect(create).rejects.toSatisfy(hasStoreCode('full'));
      expect(await collect(store, '')).toEqual(['repository.json']);
    });
  });

  describe('reading', () => {
    it('fills a buffer from any offset and stops at the end', async () => {
      const content = randomBytes(100_000);
      await upload('a', content);
      await using source = await openSource(store.source('a'));
      const bytes = Buffer.alloc(1000);
      expect(await source.sizeBytes()).toBe(100_000);
      expect(await source.read(50_001, bytes)).toBe(1000);
      expect(bytes).toEqual(content.subarray(50_001, 51_001));
      expect(await source.read(99_500, bytes)).toBe(500);
      expect(await source.read(100_000, bytes)).toBe(0);
    });

    it('tells that a blob is not there', async () => {
      await expect(openSource(store.source('none'))).rejects.toSatisfy(hasStoreCode('not-found'));
    });
  });

  describe('listing and deleting', () => {
    it('lists whole folders', async () => {
      for (const key of ['vm-1/a', 'vm-1/b/c', 'vm-10/a']) await store.putBlob(key, Buffer.from(key));
      expect(await collect(store, '')).toEqual(['repository.json', 'vm-1/a', 'vm-1/b/c', 'vm-10/a']);
      expect(await collect(store, 'vm-1/')).toEqual(['vm-1/a', 'vm-1/b/c']);
      expect(await collect(store, 'vm-1/b/')).toEqual(['vm-1/b/c']);
      expect(await collect(store, 'none/')).toEqual([]);
      await expect(collect(store, 'vm-1')).rejects.toSatisfy(hasStoreCode('invalid-key'));
    });

    it('lists uploads that are not finished apart from blobs, until they are finished or deleted', async () => {
      const uploads = async (prefix: string) => {
        const found: string[] = [];
        for await (const { key, modifiedMs } of store.listUploads(prefix)) {
          expect(Math.abs(Date.now() - modifiedMs)).toBeLessThan(600_000);
          found.push(key);
        }
        return found;
      };
      await store.putBlob('vm/disk-0/whole', Buffer.from('x'));
      await store.createUpload('vm/disk-0/abandoned', { expectedBytes: 10 });
      const going = await store.createUpload('vm/disk-1/going', { expectedBytes: 0 });
      expect(await uploads('')).toEqual(['vm/disk-0/abandoned', 'vm/disk-1/going']);
      expect(await uploads('vm/disk-1/')).toEqual(['vm/disk-1/going']);
      expect(await collect(store, 'vm/')).toEqual(['vm/disk-0/whole']);
      await going.finish(0);
      await store.deleteBlob('vm/disk-0/abandoned');
      expect(await uploads('')).toEqual([]);
      expect(await collect(store, 'vm/')).toEqual(['vm/disk-0/whole', 'vm/disk-1/going']);
    });

    it('deletes, and again without complaint', async () => {
      await store.putBlob('vm/a', Buffer.from('x'));
      await store.deleteBlob('vm/a');
      await store.deleteBlob('vm/a');
      expect(await store.statBlob('vm/a')).toBeUndefined();
      expect(await collect(store, '')).toEqual(['repository.json']);
    });

    it('writes and deletes in one folder at the same time', async () => {
      await Promise.all(
        Array.from({ length: 20 }, async (_, index) => {
          await store.putBlob(`shared/folder/${index}`, Buffer.from('x'));
          await store.deleteBlob(`shared/folder/${index}`);
        }),
      );
      expect(await collect(store, '')).toEqual(['repository.json']);
    });
  });

  it.each(HOSTILE_KEYS)('refuses the key %j everywhere', async (key) => {
    const refused = hasStoreCode('invalid-key');
    await expect(store.createUpload(key, { expectedBytes: 0 })).rejects.toSatisfy(refused);
    await expect(store.resumeUpload(key, 'token')).rejects.toSatisfy(refused);
    await expect(store.putBlob(key, Buffer.alloc(1))).rejects.toSatisfy(refused);
    await expect(store.putBlob(key, Buffer.alloc(1), { replace: true })).rejects.toSatisfy(refused);
    await expect(store.getBlob(key)).rejects.toSatisfy(refused);
    await expect(store.statBlob(key)).rejects.toSatisfy(refused);
    await expect(store.deleteBlob(key)).rejects.toSatisfy(refused);
    expect(() => store.source(key)).toThrow(BlobStoreError);
    if (key !== '') await expect(collect(store, `${key}/`)).rejects.toSatisfy(refused);
  });

  it('is opened only with the id it was made with', async () => {
    const other = '00000000-0000-4000-8000-000000000000';
    await expect(initRepository(store, { id: other })).rejects.toMatchObject({ code: 'foreign' });
    expect(await initRepository(reopen(), { id: REPOSITORY_ID })).toMatchObject({ id: REPOSITORY_ID });
  });
}
