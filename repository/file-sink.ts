import { constants } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import { BlobStoreError, type BlobSink, type BlobSinkDescriptor } from './blob-store.ts';
import { errnoOf, storeErrorOf } from './file-errors.ts';

const { O_DIRECT, O_NOFOLLOW, O_WRONLY } = constants;
/** O_DIRECT wants offset, length and memory at multiples of the logical block size; 4096 satisfies every disk. */
const ALIGNMENT = 4096;

/**
 * Writes an upload's file past the page cache where it can: that costs a fifth of the processor time, and does not push
 * the guests' pages out. What is not aligned at the ends of a write, and all of one whose memory lies otherwise to
 * pages than its place in the file, goes through the cache; so do file systems that refuse O_DIRECT (`EINVAL`: some tmpfs, NFS and FUSE); the upload's `finish` makes those durable.
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

  async function writeCached(bytes: Uint8Array, offset: number): Promise<void> {
    if (bytes.length === 0) return;
    cached ??= openWith(0);
    const file = await cached;
    for (let done = 0; done < bytes.length;) {
      done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
    }
  }

  return {
    async write(offset, bytes) {
      try {
        const middle = direct ? alignedMiddle(offset, bytes) : { start: 0, end: 0 };
        if (direct && middle.end > middle.start) {
          middle.end =
            middle.start + (await writeDirect(direct, bytes.subarray(middle.start, middle.end), offset + middle.start));
        }
        await writeCached(bytes.subarray(0, middle.start), offset);
        await writeCached(bytes.subarray(middle.end), offset + middle.end);
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

/** The part of `bytes` that is aligned in the file and in memory alike; empty where they lie differently to pages. */
function alignedMiddle(offset: number, { byteOffset, length }: Uint8Array): { start: number; end: number } {
  const start = (ALIGNMENT - (offset % ALIGNMENT)) % ALIGNMENT;
  const end = length - ((offset + length) % ALIGNMENT);
  return (offset - byteOffset) % ALIGNMENT === 0 && end > start ? { start, end } : { start: 0, end: 0 };
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
