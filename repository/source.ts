import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { BlobSource, BlobSourceDescriptor } from './blob-store.ts';
import { storeErrorOf } from './file-errors.ts';

/**
 * Opens a stored blob for reading at any offset, in the thread that calls.
 * @throws BlobStoreError `not-found`, `unavailable`
 */
export async function openSource(descriptor: BlobSourceDescriptor): Promise<BlobSource> {
  const { path, blobKey: key } = descriptor;
  const failed = (error: unknown) => storeErrorOf(error, { act: 'read', key, path });
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW).catch((error: unknown) => {
    throw failed(error);
  });
  return {
    async read(offset, bytes) {
      try {
        let done = 0;
        while (done < bytes.length) {
          const { bytesRead } = await file.read(bytes, done, bytes.length - done, offset + done);
          if (bytesRead === 0) break;
          done += bytesRead;
        }
        return done;
      } catch (error) {
        throw failed(error);
      }
    },
    async sizeBytes() {
      try {
        return (await file.stat()).size;
      } catch (error) {
        throw failed(error);
      }
    },
    [Symbol.asyncDispose]: () => file.close(),
  };
}
