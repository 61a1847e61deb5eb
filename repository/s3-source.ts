import type { S3Place } from '../schemas/repository.ts';
import type { BlobSource } from './blob-store.ts';
import { connectionTo } from './s3-connection.ts';
import { isOfHead, s3Error } from './s3-errors.ts';
import { objectKeyOf } from './s3-keys.ts';
import { sendData } from './s3-request.ts';

/**
 * Reads an object by ranges, any number of them at once.
 * @throws BlobStoreError `not-found` when there is no such object
 */
export async function openS3Source({ place, blobKey: key }: { place: S3Place; blobKey: string }): Promise<BlobSource> {
  const connection = connectionTo(place);
  const objectKey = objectKeyOf(place, key);
  const act = `read ${key}`;
  const { headers } = await sendData(connection, { method: 'HEAD', objectKey, act, key }).catch(
    async (error: unknown) => {
      if (!isOfHead(error)) throw error;
      await sendData(connection, { method: 'GET', objectKey, headers: { range: 'bytes=0-0' }, act, key });
      throw error;
    },
  );
  const sizeBytes = Number(headers['content-length']);
  if (!Number.isSafeInteger(sizeBytes)) {
    throw s3Error(
      place,
      { act: `read ${key}`, key },
      { status: 400, code: 'InvalidAnswer', message: 'it has no length' },
    );
  }

  return {
    async read(offset, bytes, { signal } = {}) {
      const wantedBytes = Math.min(bytes.length, sizeBytes - offset);
      if (wantedBytes <= 0) return 0;
      const { readBytes } = await sendData(connection, {
        method: 'GET',
        objectKey,
        headers: { range: `bytes=${offset}-${offset + wantedBytes - 1}` },
        into: bytes.subarray(0, wantedBytes),
        signal, // a server that has gone silent is waited for during minutes
        act: `read ${wantedBytes} bytes at ${offset} of ${key}`,
        key,
      });
      return readBytes;
    },
    sizeBytes: () => Promise.resolve(sizeBytes),
    [Symbol.asyncDispose]: () => Promise.resolve(), // the connections are the thread's
  };
}
