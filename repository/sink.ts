import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { BlobSink, BlobSinkDescriptor } from './blob-store.ts';
import { storeErrorOf } from './file-errors.ts';

/**
 * Opens an upload for writing at any offset, in the thread that calls.
 * @throws BlobStoreError `full`, `read-only`, `unavailable`
 */
export async function openSink(descriptor: BlobSinkDescriptor): Promise<BlobSink> {
  const { path, blobKey: key } = descriptor;
  const failed = (error: unknown) => storeErrorOf(error, { act: 'write', key, path });
  const file = await open(path, constants.O_WRONLY | constants.O_NOFOLLOW).catch((error: unknown) => {
    throw failed(error);
  });
  return {
    async write(offset, bytes) {
      try {
        let done = 0;
        while (done < bytes.length) {
          done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten;
        }
      } catch (error) {
        throw failed(error);
      }
    },
    [Symbol.asyncDispose]: () => file.close(),
  };
}
