import { crc32 } from 'node:zlib';
import { placeText } from '../schemas/repository.ts';
import { BlobStoreError, type BlobUpload, type PartSink } from './blob-store.ts';
import type { S3Connection } from './s3-connection.ts';
import type { S3Control, StoredPart } from './s3-control.ts';
import { s3Error } from './s3-errors.ts';
import { sendData } from './s3-request.ts';

const MIB = 1024 * 1024;
/** Source: Amazon S3 user guide, "Multipart upload limits" */
const MIN_PART_BYTES = 5 * MIB;
const MAX_PART_BYTES = 5 * 1024 * MIB;
const MAX_PARTS = 10_000;

/** An upload of one blob: its key in the repository and in the bucket, and the server's id of it. */
export interface S3UploadName {
  key: string;
  objectKey: string;
  uploadId: string;
}

/** An upload in parts that was begun on the server. `control` is asked for when it is needed. */
export function s3Upload(
  connection: S3Connection,
  control: () => Promise<S3Control>,
  name: S3UploadName,
): BlobUpload & { sink: PartSink } {
  const { place } = connection;
  const { key, objectKey, uploadId } = name;
  return {
    key,
    token: uploadId,
    sink: {
      kind: 'parts',
      blobKey: key,
      identity: `s3 ${uploadId}`,
      minPartBytes: MIN_PART_BYTES,
      maxPartBytes: MAX_PART_BYTES,
      maxParts: MAX_PARTS,
      putPart: (number, bytes, { signal }) => putPart(connection, name, { number, bytes, signal }),
      async storedParts() {
        const act = { act: `list the parts of ${key}`, key };
        const stored = await Array.fromAsync((await control()).listParts(act, objectKey, uploadId));
        return new Map(stored.map(({ number, sizeBytes }) => [number, sizeBytes]));
      },
    },

    async finish(totalBytes) {
      const server = await control();
      const act = { act: `finish ${key}`, key };
      try {
        let parts = await Array.fromAsync(server.listParts(act, objectKey, uploadId));
        if (parts.length === 0 && totalBytes === 0) {
          await putPart(connection, name, { number: 1, bytes: Buffer.alloc(0) }); // an upload has a part, if an empty one
          parts = await Array.fromAsync(server.listParts(act, objectKey, uploadId));
        }
        requireWhole(parts, totalBytes, `${placeText(place)}: ${key}`, key);
        await server.completeUpload(act, objectKey, { uploadId, parts, ifAbsent: true });
      } catch (error) {
        if (await wasFinished(server, error, totalBytes)) return;
        throw error;
      }
    },

    async abort() {
      const server = await control();
      await server.abortUpload({ act: `abort the upload of ${key}`, key }, objectKey, uploadId).catch(unlessGone);
    },
  };

  /** The answer to an earlier try was lost: the upload is gone, and its blob is there. */
  async function wasFinished(server: S3Control, error: unknown, totalBytes: number): Promise<boolean> {
    if (!(error instanceof BlobStoreError) || (error.code !== 'not-found' && error.code !== 'exists')) return false;
    const act = { act: `look for ${key}`, key };
    const isGone = await Array.fromAsync(server.listParts(act, objectKey, uploadId)).then(
      () => false,
      (failure: unknown) => {
        unlessGone(failure);
        return true;
      },
    );
    if (!isGone) return false;
    const found = await server.head(act, objectKey).catch(unlessGone);
    return found?.sizeBytes === totalBytes;
  }
}

/** For `catch`: what is gone is undefined, all else goes on. */
export function unlessGone(error: unknown): undefined {
  if (error instanceof BlobStoreError && error.code === 'not-found') return undefined;
  throw error;
}

/** CRC32 travels with each part: the server compares it before it stores the part, and keeps it. */
async function putPart(
  connection: S3Connection,
  { key, objectKey, uploadId }: S3UploadName,
  { number, bytes, signal }: { number: number; bytes: Uint8Array; signal?: AbortSignal },
): Promise<void> {
  const checksum = Buffer.alloc(4);
  checksum.writeUInt32BE(crc32(bytes));
  const act = `write part ${number} of ${key}`;
  const { headers } = await sendData(connection, {
    method: 'PUT',
    objectKey,
    query: { partNumber: String(number), uploadId },
    headers: { 'x-amz-checksum-crc32': checksum.toString('base64') },
    body: bytes,
    signal,
    act,
    key,
  });
  if (headers.etag === undefined) {
    const message = 'it was stored without an entity tag';
    throw s3Error(connection.place, { act, key }, { status: 400, code: 'InvalidAnswer', message });
  }
}

/** @throws BlobStoreError `unavailable` unless the parts, in a row, have just this length */
function requireWhole(parts: StoredPart[], totalBytes: number, name: string, key: string): void {
  const storedBytes = parts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const gap = parts.findIndex(({ number }, index) => number !== index + 1);
  if (storedBytes === totalBytes && gap < 0) return;
  const found = gap < 0 ? `${parts.length} parts` : `part ${gap + 1} is missing of ${parts.length + 1} or more`;
  throw new BlobStoreError(
    'unavailable',
    `${name}: ${storedBytes} bytes of ${totalBytes} are there (${found}); parts that were stored are not what they were`,
    { key },
  );
}
