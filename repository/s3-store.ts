import type { S3Place } from '../schemas/repository.ts';
import { placeText } from '../schemas/repository.ts';
import { BlobStoreError, type BlobInfo, type BlobStore } from './blob-store.ts';
import { blobKey, fileName } from '../schemas/names.ts';
import { checkKey } from './layout.ts';
import { connectionTo } from './s3-connection.ts';
import type { BegunUpload, S3Control, StoredObject } from './s3-control.ts';
import { isOfHead } from './s3-errors.ts';
import { blobKeyOf, objectKeyOf, objectPrefixOf } from './s3-keys.ts';
import { lockOf, removeObject, requireNotLocked, s3Locks } from './s3-locks.ts';
import { s3Upload, unlessGone } from './s3-upload.ts';

const DEFAULT_MAX_BYTES = 16 * 1024 * 1024;
/** A server copies no larger object at once, and is asked for parts of so much then. Source: Amazon S3 API reference, "CopyObject" */
const COPY_LIMITS = { wholeBytes: 5 * 1024 ** 3, partBytes: 512 * 1024 ** 2 };
const COPIES_AT_ONCE = 4;
const MAX_PARTS = 10_000;

/**
 * Blobs as objects of a bucket, below a prefix. A manifest is seen by others as soon as it is stored: the consistency of S3
 * since 2020, which the servers for one's own machines have as well.
 *
 * An upload is a multipart upload of the object itself, its token the server's id of it: neither listed nor found before it is
 * finished, and nothing is kept beside it. That a blob must not exist yet is asked before, and once more of the server as it stores it
 * (`If-None-Match: *`); a server that does not know that header leaves a gap between the two, in which keys with a time or
 * an id in them do not meet. Nobody but `listBlobs` lists objects.
 * @param copies lower limits, so that a test needs no object of 5 GiB
 */
export function createS3Store(place: S3Place, copies = COPY_LIMITS): BlobStore {
  const connection = connectionTo(place);
  const name = placeText(place);
  let loaded: Promise<S3Control> | undefined;
  // The SDK is loaded where a bucket is used: it takes longer than most commands do.
  const control = (): Promise<S3Control> =>
    (loaded ??= import('./s3-control.ts').then(({ controlOf }) => controlOf(connection)));

  const exists = (key: string): BlobStoreError =>
    new BlobStoreError('exists', `${name}: ${key} exists already`, { key });

  async function stat(key: string): Promise<StoredObject | undefined> {
    const objectKey = objectKeyOf(place, key);
    const act = { act: `look for ${key}`, key };
    const server = await control();
    return await server.head(act, objectKey).catch(async (error: unknown) => {
      if (!isOfHead(error)) throw error;
      await server.get(act, objectKey, 0).catch(unlessGone);
      unlessGone(error);
      return undefined;
    });
  }

  async function uploadsOf(key: string): Promise<BegunUpload[]> {
    const objectKey = objectKeyOf(place, key);
    const begun = (await control()).listUploads({ act: `list the uploads of ${key}`, key }, objectKey);
    return (await Array.fromAsync(begun)).filter((upload) => upload.objectKey === objectKey);
  }

  async function discardUploads(key: string): Promise<void> {
    const server = await control();
    for (const { objectKey, uploadId } of await uploadsOf(key)) {
      await server.abortUpload({ act: `abort the upload of ${key}`, key }, objectKey, uploadId).catch(unlessGone);
    }
  }

  /** minio lists the uploads of one key, or those of the whole bucket, and none for any other prefix. */
  async function* uploadsBelow(folder: string): AsyncGenerator<BegunUpload> {
    const server = await control();
    const prefix = objectPrefixOf(place, folder);
    const act = { act: `list the uploads in ${folder === '' ? 'the repository' : folder}` };
    let isEmpty = true;
    for await (const upload of server.listUploads(act, prefix)) {
      isEmpty = false;
      yield upload;
    }
    if (!isEmpty || prefix === '') return;
    for await (const upload of server.listUploads(act, '')) if (upload.objectKey.startsWith(prefix)) yield upload;
  }

  return {
    async createUpload(key) {
      const objectKey = objectKeyOf(place, key);
      if ((await stat(key)) !== undefined || (await uploadsOf(key)).length > 0) throw exists(key);
      const server = await control();
      const act = { act: `begin ${key}`, key };
      const uploadId = await server.createUpload(act, objectKey, { checksums: true });
      return s3Upload(connection, control, { key, objectKey, uploadId });
    },

    async resumeUpload(key, token) {
      const objectKey = objectKeyOf(place, key);
      const begun = await uploadsOf(key);
      if (!begun.some(({ uploadId }) => uploadId === token)) return undefined;
      return s3Upload(connection, control, { key, objectKey, uploadId: token });
    },

    async putBlob(key, content, { replace = false } = {}) {
      const objectKey = objectKeyOf(place, key);
      const server = await control();
      const act = { act: `write ${key}`, key };
      if (replace) {
        const former = await server.head(act, objectKey).catch(unlessGone);
        await server.put(act, objectKey, content, { ifAbsent: false, lock: lockOf(former) });
        return;
      }
      const isSame = async (): Promise<boolean> => {
        const present = await server.get(act, objectKey, content.length).catch(unlessGone);
        if (present === undefined) return false;
        if (present.content?.equals(content) === true) return true; // an earlier try, whose answer was lost
        throw exists(key);
      };
      if (await isSame()) return;
      await server.put(act, objectKey, content, { ifAbsent: true }).catch(async (error: unknown) => {
        if (!(error instanceof BlobStoreError) || error.code !== 'exists' || !(await isSame())) throw error;
      });
    },

    async getBlob(key, { maxBytes = DEFAULT_MAX_BYTES } = {}) {
      const objectKey = objectKeyOf(place, key);
      const { sizeBytes, content } = await (await control()).get({ act: `read ${key}`, key }, objectKey, maxBytes);
      if (content !== undefined) return content;
      throw new BlobStoreError('too-large', `${name}: ${key} has ${sizeBytes} bytes, at most ${maxBytes}`, { key });
    },

    async statBlob(key) {
      const found = await stat(key);
      return found && { key, sizeBytes: found.sizeBytes, modifiedMs: found.modifiedMs };
    },

    async *listBlobs(folder) {
      checkFolder(folder);
      const act = { act: `list ${folder === '' ? 'the repository' : folder}` };
      for await (const { objectKey, sizeBytes, modifiedMs } of (await control()).list(
        act,
        objectPrefixOf(place, folder),
      )) {
        const key = blobKeyOf(place, objectKey);
        if (isKey(key)) yield { key, sizeBytes, modifiedMs };
      }
    },

    async *listUploads(folder) {
      checkFolder(folder);
      const server = await control();
      const found = new Map<string, BlobInfo>();
      for await (const { objectKey, uploadId, begunMs } of uploadsBelow(folder)) {
        const key = blobKeyOf(place, objectKey);
        if (!isKey(key)) continue;
        const act = { act: `list the parts of ${key}`, key };
        const parts = await Array.fromAsync(server.listParts(act, objectKey, uploadId)).catch(unlessGone);
        if (parts === undefined) continue; // finished or aborted meanwhile
        const info = found.get(key) ?? { key, sizeBytes: 0, modifiedMs: 0 };
        info.sizeBytes += parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
        info.modifiedMs = Math.max(info.modifiedMs, begunMs);
        found.set(key, info);
      }
      yield* [...found.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
    },

    discardUploads: (key) => discardUploads(checkKey(key)),

    async deleteBlob(key) {
      const objectKey = objectKeyOf(place, key);
      await discardUploads(key);
      await removeObject(await control(), { act: `delete ${key}`, key }, objectKey);
    },

    async moveBlob(from, to) {
      const [source, target] = [objectKeyOf(place, from), objectKeyOf(place, to)];
      const server = await control();
      const act = { act: `move ${from} to ${to}`, key: to };
      const found = await stat(from);
      if (found === undefined) {
        throw new BlobStoreError('not-found', `${name}: ${from} is not there`, { key: from });
      }
      requireNotLocked(await stat(to), act);
      const { sizeBytes } = found;
      if (sizeBytes <= copies.wholeBytes) await server.copy(act, source, target);
      else await copyInParts(server, act, { source, target, sizeBytes, partBytes: copies.partBytes });
      await removeObject(server, { act: `delete ${from}`, key: from }, source);
    },

    source: (key) => ({ kind: 's3', place, blobKey: checkKey(key) }),

    freeSpaceBytes: () => Promise.resolve(undefined),

    locks: s3Locks(control, (key) => objectKeyOf(place, key)),
  };
}

/** An object of more than 5 GiB, several parts at once; on the server, without a byte through this machine. */
async function copyInParts(
  server: S3Control,
  act: { act: string; key: string },
  { source, target, sizeBytes, ...least }: { source: string; target: string; sizeBytes: number; partBytes: number },
): Promise<void> {
  const partBytes = Math.max(least.partBytes, Math.ceil(sizeBytes / MAX_PARTS));
  const uploadId = await server.createUpload(act, target, { checksums: false });
  try {
    const numbers = Array.from({ length: Math.ceil(sizeBytes / partBytes) }, (_, index) => index + 1).values();
    const copyNext = async (): Promise<void> => {
      for (const number of numbers) {
        const first = (number - 1) * partBytes;
        const last = Math.min(first + partBytes, sizeBytes) - 1;
        await server.copyPart(act, target, { uploadId, number, from: source, first, last });
      }
    };
    const lanes = await Promise.allSettled(Array.from({ length: COPIES_AT_ONCE }, copyNext));
    for (const lane of lanes) if (lane.status === 'rejected') throw lane.reason;
    const parts = await Array.fromAsync(server.listParts(act, target, uploadId));
    await server.completeUpload(act, target, { uploadId, parts, ifAbsent: false });
  } catch (error) {
    await server.abortUpload(act, target, uploadId).catch(unlessGone);
    throw error;
  }
}

function checkFolder(folder: string): void {
  if (folder === '') return;
  if (!folder.endsWith('/')) {
    throw new BlobStoreError('invalid-key', `not a folder of a repository: ${JSON.stringify(folder)}`);
  }
  checkKey(folder.slice(0, -1));
}

/** What others put into the bucket is left out. */
const isKey = (key: string): boolean =>
  blobKey.safeParse(key).success && key.split('/').every((segment) => fileName.safeParse(segment).success);
