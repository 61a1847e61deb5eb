import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { BlobStoreError, type BlobSource, type BlobSourceDescriptor } from './blob-store.ts';
import { placeText } from '../schemas/repository.ts';
import { assertRoot } from './directory-files.ts';
import { errnoOf, storeErrorOf } from './file-errors.ts';

const { O_DIRECT, O_NOFOLLOW, O_RDONLY } = constants;
/** O_DIRECT wants offset, length and memory at multiples of the logical block size; 4096 satisfies every disk. */
const ALIGNMENT = 4096;

/** Opens a stored blob for reading at any offset, in the thread that calls. @throws BlobStoreError */
export async function openSource(descriptor: BlobSourceDescriptor): Promise<BlobSource> {
  if (descriptor.kind === 'file') return await openFileSource(descriptor);
  const { openS3Source } = await import('./s3-source.ts'); // large: threads that read files do without it
  return await openS3Source(descriptor);
}

/**
 * The file of a blob on this machine, for programs that read it themselves.
 * @throws BlobStoreError `unavailable` for a blob that is no file here
 */
export function filePathOf(descriptor: BlobSourceDescriptor): string {
  if (descriptor.kind === 'file') return descriptor.path;
  const { place, blobKey } = descriptor;
  throw new BlobStoreError('unavailable', `${blobKey} of ${placeText(place)} is no file on this host`, {
    key: blobKey,
  });
}

/**
 * Aligned reads go past the page cache where
 * the file system allows it: a backup is read once, and its pages would push out those that guests need. Others, and those
 * of memory that turns out not to be aligned (`EINVAL`), go through the cache.
 * @throws BlobStoreError `not-found`, `unavailable`
 */
async function openFileSource({ path, blobKey: key }: { path: string; blobKey: string }): Promise<BlobSource> {
  const fail = (error: unknown): never => {
    throw storeErrorOf(error, { act: 'read', key, path });
  };
  const openWith = (flags: number) => open(path, O_RDONLY | O_NOFOLLOW | flags);
  const direct = await openWith(O_DIRECT).catch(async (error: unknown) => {
    if (isRefusal(error)) return undefined;
    // That a file is missing can be said only of a repository that is there.
    if (errnoOf(error) === 'ENOENT' && path.endsWith(`/${key}`)) await assertRoot(path.slice(0, -key.length));
    return fail(error);
  });
  let cached: Promise<FileHandle> | undefined = direct ? undefined : Promise.resolve(await openWith(0).catch(fail));

  return {
    async read(offset, bytes) {
      try {
        const isAligned = [offset, bytes.length, bytes.byteOffset].every((number) => number % ALIGNMENT === 0);
        let done = direct && isAligned ? await readDirect(direct, bytes, offset) : 0;
        if (done === bytes.length) return done;
        cached ??= openWith(0);
        const file = await cached;
        while (done < bytes.length) {
          const { bytesRead } = await file.read(bytes, done, bytes.length - done, offset + done);
          if (bytesRead === 0) break;
          done += bytesRead;
        }
        return done;
      } catch (error) {
        return fail(error);
      }
    },
    async sizeBytes() {
      const file = direct ?? (await cached);
      const info = await file?.stat().catch(fail);
      return info?.size ?? 0;
    },
    async [Symbol.asyncDispose]() {
      await direct?.close();
      await (await cached)?.close();
    },
  };
}

/** Bytes read: all, or fewer at the end of the file and where the rest needs the cache. */
async function readDirect(file: FileHandle, bytes: Uint8Array, offset: number): Promise<number> {
  try {
    return (await file.read(bytes, 0, bytes.length, offset)).bytesRead;
  } catch (error) {
    if (isRefusal(error)) return 0;
    throw error;
  }
}

const isRefusal = (error: unknown): boolean => ['EINVAL', 'ENOTSUP', 'EOPNOTSUPP'].includes(errnoOf(error) ?? '');
