import { constants } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import { BlobStoreError, type BlobSink, type BlobSinkDescriptor } from './blob-store.ts';
import { errnoOf, storeErrorOf } from './file-errors.ts';

const { O_DIRECT, O_NOFOLLOW, O_WRONLY } = constants;
/** O_DIRECT wants offset, length and memory at multiples of the logical block size; 4096 satisfies every disk. */
const ALIGNMENT = 4096;

/**
 * Writes an upload's file past the page cache where it can: that costs a fifth of the processor time, and does not push
 * the guests' pages out. Writes that are not aligned, and file systems that refuse O_DIRECT (`EINVAL`: some tmpfs, NFS and
 * FUSE), go through the cache; the upload's `finish` makes those durable.
 * @throws BlobStoreError `full`, `read-only`, `unavailable` (also when the file is gone)
 */
export async function openFileSink({ path, blobKey: key }: BlobSinkDescriptor): Promise<BlobSink> {
  const fail = (error: unknown): never => {
    if (errnoOf(error) === 'ENOENT') {
      throw new BlobStoreError('unavailable', `repository file ${path} is gone`, { key, cause: error });
    }
    throw storeErrorOf(error, { act: 'write', key, path });
  };
  const openWith = (flags: number) => open(path, O_WRONLY | O_NOFOLLOW | flags);
  const direct = await openWith(O_DIRECT).catch((error: unknown) => (isRefusal(error) ? undefined : fail(error)));
  let cached: Promise<FileHandle> | undefined = direct ? undefined : Promise.resolve(await openWith(0).catch(fail));

  return {
    async write(offset, bytes) {
      try {
        let done = 0;
        if (
          direct &&
          offset % ALIGNMENT === 0 &&
          bytes.length % ALIGNMENT === 0 &&
          bytes.byteOffset % ALIGNMENT === 0
        ) {
          done = await writeDirect(direct, bytes, offset);
          if (done === bytes.length) return;
        }
        cached ??= openWith(0);
        const file = await cached;
        while (done < bytes.length) {
          done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
        }
      } catch (error) {
        fail(error);
      }
    },
    async [Symbol.asyncDispose]() {
      try {
        await direct?.close();
        await (await cached)?.close(); // NFS reports here what it could not write before
      } catch (error) {
        fail(error);
      }
    },
  };
}

/** Bytes written: all, or fewer where the rest needs the cache. */
async function writeDirect(file: FileHandle, bytes: Uint8Array, offset: number): Promise<number> {
  try {
    return (await file.write(bytes, 0, bytes.length, offset)).bytesWritten;
  } catch (error) {
    if (isRefusal(error)) return 0; // memory that is not page-aligned, or a file system that says no only now
    throw error;
  }
}

const isRefusal = (error: unknown): boolean => ['EINVAL', 'ENOTSUP', 'EOPNOTSUPP'].includes(errnoOf(error) ?? '');

/**
 * Tells one file from another of the same name: what has been noted about an upload counts only for the same file.
 * Birth times are 0 where the file system keeps none.
 */
export async function identifyFileSink({ path, blobKey: key }: BlobSinkDescriptor): Promise<string> {
  const { dev, ino, birthtimeNs } = await stat(path, { bigint: true }).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') {
      throw new BlobStoreError('unavailable', `repository file ${path} is gone`, { key, cause: error });
    }
    throw storeErrorOf(error, { act: 'write', key, path });
  });
  return `file ${dev}:${ino}:${birthtimeNs}`;
}
