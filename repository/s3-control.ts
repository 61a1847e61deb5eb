import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CopyObjectCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetBucketVersioningCommand,
  GetObjectCommand,
  GetObjectLockConfigurationCommand,
  HeadObjectCommand,
  ListObjectVersionsCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListPartsCommand,
  PutObjectCommand,
  PutObjectRetentionCommand,
  S3Client,
  UploadPartCopyCommand,
  type HeadObjectCommandOutput,
} from '@aws-sdk/client-s3';
import { NodeHttpHandler } from '@smithy/node-http-handler';
import { createHash } from 'node:crypto';
import { BlobStoreError, type BlobLock } from './blob-store.ts';
import type { S3Connection } from './s3-connection.ts';
import { s3Error, troubleOf } from './s3-errors.ts';

/** A stored part of an upload. `checksum` is its CRC32 in Base64, where the server keeps it. */
export interface StoredPart {
  number: number;
  etag: string;
  sizeBytes: number;
  checksum?: string | undefined;
}

export interface StoredObject {
  objectKey: string;
  sizeBytes: number;
  modifiedMs: number;
  /** Absent where the bucket keeps no versions. */
  versionId?: string;
  lock?: BlobLock;
}

export interface BegunUpload {
  objectKey: string;
  uploadId: string;
  begunMs: number;
}

const CONNECT_MS = 10_000;
const ANSWER_MS = 60_000;
/** A server copies or joins an object of terabytes before it answers. */
const SLOW_ANSWER_MS = 30 * 60_000;
const TRIES = 5;

const clients = new WeakMap<S3Connection, S3Client>();

/**
 * One client for each place: its retries adapt to a server that says "slow down". Whatever is asked with it is small; disk data goes by
 * s3-request.ts. It signs by the host's clock, and adds no checksums of its own choice, which not every server knows.
 */
function clientOf(connection: S3Connection): S3Client {
  const known = clients.get(connection);
  if (known !== undefined) return known;
  const { place, endpoint, signer } = connection;
  const client = new S3Client({
    region: place.region,
    endpoint: endpoint.href,
    forcePathStyle: place.pathStyle,
    signer: { sign: (request) => signer.sign(request) }, // at the host's time, whatever the SDK would correct it to
    // Signing is the signer's; a provider here would be asked for keys a second time.
    credentials: { accessKeyId: 'of-the-signer', secretAccessKey: 'of-the-signer' },
    maxAttempts: TRIES,
    retryMode: 'adaptive',
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: new NodeHttpHandler(async () => {
      const agent = await connection.agent();
      return {
        httpAgent: agent,
        httpsAgent: agent,
        connectionTimeout: CONNECT_MS,
        requestTimeout: ANSWER_MS,
        throwOnRequestTimeout: true,
      };
    }),
  });
  clients.set(connection, client);
  return client;
}

interface Act {
  /** For errors: "write vm/backups/1.json". */
  act: string;
  key?: string;
}

/** The requests about objects, as functions; each throws BlobStoreError. Keys here are those of the bucket, with the prefix. */
export function controlOf(connection: S3Connection) {
  const { place } = connection;
  const Bucket = place.bucket;
  const client = clientOf(connection);
  const slowly = { requestTimeout: SLOW_ANSWER_MS };

  const asked = async <T>(act: Act, answer: Promise<T>): Promise<T> =>
    await answer.catch((error: unknown) => {
      if (error instanceof BlobStoreError) throw error; // of the credentials
      const described = s3Error(place, { ...act, tries: triesOf(error) }, troubleOf(error), error);
      if (described.code === 'denied') connection.credentials.forget();
      throw described;
    });

  return {
    async head(act: Act, Key: string): Promise<StoredObject> {
      const found = await asked(act, client.send(new HeadObjectCommand({ Bucket, Key })));
      return {
        objectKey: Key,
        sizeBytes: found.ContentLength ?? 0,
        modifiedMs: found.LastModified?.getTime() ?? 0,
        // "null" is the version of what was stored before the bucket kept any.
        ...(found.VersionId === undefined || found.VersionId === 'null' ? {} : { versionId: found.VersionId }),
        ...lockIn(found),
      };
    },

    /** The whole object, unless it is larger: then only its size. */
    async get(act: Act, Key: string, maxBytes: number): Promise<{ sizeBytes: number; content: Buffer | undefined }> {
      const { Body, ContentLength: sizeBytes = 0 } = await asked(
        act,
        client.send(new GetObjectCommand({ Bucket, Key })),
      );
      if (Body === undefined) return { sizeBytes, content: Buffer.alloc(0) };
      if (sizeBytes > maxBytes) {
        (Body as { destroy?: () => void }).destroy?.();
        return { sizeBytes, content: undefined };
      }
      const content = Buffer.from(await asked(act, Body.transformToByteArray()));
      if (content.length === sizeBytes) return { sizeBytes, content };
      const message = `${content.length} of ${sizeBytes} bytes came`;
      throw s3Error(place, act, { code: 'ECONNRESET', message });
    },

    async put(
      act: Act,
      Key: string,
      content: Uint8Array,
      options: { ifAbsent: boolean; lock?: BlobLock | undefined },
    ): Promise<void> {
      const { lock } = options;
      const input = {
        Bucket,
        Key,
        Body: content,
        ContentLength: content.length,
        ChecksumSHA256: createHash('sha256').update(content).digest('base64'),
        ...(options.ifAbsent ? { IfNoneMatch: '*' } : {}),
        ...(lock === undefined
          ? {}
          : { ObjectLockMode: modeOf(lock), ObjectLockRetainUntilDate: new Date(lock.untilMs) }),
      };
      await asked(act, client.send(new PutObjectCommand(input)));
    },

    /** Without a version, a bucket that keeps versions only hides the object. */
    async delete(act: Act, Key: string, VersionId?: string): Promise<void> {
      const version = VersionId === undefined ? {} : { VersionId };
      await asked(act, client.send(new DeleteObjectCommand({ Bucket, Key, ...version })));
    },

    /** Ids of all versions of an object, markers of its removal included. */
    async *versions(act: Act, Key: string): AsyncGenerator<string> {
      for (let markers: { KeyMarker?: string; VersionIdMarker?: string } = {}; ;) {
        const page = await asked(act, client.send(new ListObjectVersionsCommand({ Bucket, Prefix: Key, ...markers })));
        for (const version of [...(page.Versions ?? []), ...(page.DeleteMarkers ?? [])]) {
          if (version.Key === Key && version.VersionId !== undefined) yield version.VersionId;
        }
        if (page.IsTruncated !== true || page.NextKeyMarker !== Key) return;
        markers = {
          KeyMarker: page.NextKeyMarker,
          ...(page.NextVersionIdMarker ? { VersionIdMarker: page.NextVersionIdMarker } : {}),
        };
      }
    },

    async setLock(act: Act, Key: string, lock: BlobLock): Promise<void> {
      const Retention = { Mode: modeOf(lock), RetainUntilDate: new Date(lock.untilMs) };
      const digest = { ChecksumAlgorithm: 'SHA256' } as const; // servers want one of this request
      await asked(act, client.send(new PutObjectRetentionCommand({ Bucket, Key, Retention, ...digest })));
    },

    /** What the bucket can do. */
    async lockSupport(act: Act): Promise<{ objectLock: boolean; versioning: boolean }> {
      const configuration = client.send(new GetObjectLockConfigurationCommand({ Bucket }));
      const objectLock = await configuration.then(
        ({ ObjectLockConfiguration: found }) => found?.ObjectLockEnabled === 'Enabled',
        (error: unknown) => {
          const trouble = troubleOf(error);
          if (/ObjectLockConfiguration/.test(trouble.code)) return false; // there is none
          throw s3Error(place, act, trouble, error);
        },
      );
      const { Status } = await asked(act, client.send(new GetBucketVersioningCommand({ Bucket })));
      return { objectLock, versioning: Status === 'Enabled' };
    },

    async *list(act: Act, Prefix: string): AsyncGenerator<StoredObject> {
      for (let ContinuationToken: string | undefined; ;) {
        const page = await asked(
          act,
          client.send(
            new ListObjectsV2Command({ Bucket, Prefix, ...(ContinuationToken ? { ContinuationToken } : {}) }),
          ),
        );
        for (const { Key = '', Size = 0, LastModified } of page.Contents ?? []) {
          yield { objectKey: Key, sizeBytes: Size, modifiedMs: LastModified?.getTime() ?? 0 };
        }
        ContinuationToken = page.NextContinuationToken;
        if (page.IsTruncated !== true || ContinuationToken === undefined) return;
      }
    },

    async copy(act: Act, from: string, Key: string): Promise<void> {
      const CopySource = `${Bucket}/${from}`;
      await asked(act, client.send(new CopyObjectCommand({ Bucket, Key, CopySource }), slowly));
    },

    async createUpload(act: Act, Key: string, options: { checksums: boolean }): Promise<string> {
      const { UploadId } = await asked(
        act,
        client.send(
          new CreateMultipartUploadCommand({
            Bucket,
            Key,
            ...(options.checksums ? { ChecksumAlgorithm: 'CRC32' } : {}),
          }),
        ),
      );
      if (UploadId !== undefined && UploadId !== '') return UploadId;
      throw s3Error(place, act, { code: 'InvalidAnswer', message: 'the server gave no upload id', status: 400 });
    },

    async *listUploads(act: Act, Prefix: string): AsyncGenerator<BegunUpload> {
      for (let markers: { KeyMarker?: string; UploadIdMarker?: string } = {}; ;) {
        const page = await asked(act, client.send(new ListMultipartUploadsCommand({ Bucket, Prefix, ...markers })));
        for (const { Key = '', UploadId = '', Initiated } of page.Uploads ?? []) {
          yield { objectKey: Key, uploadId: UploadId, begunMs: Initiated?.getTime() ?? 0 };
        }
        if (page.IsTruncated !== true || !page.NextKeyMarker) return;
        markers = {
          KeyMarker: page.NextKeyMarker,
          ...(page.NextUploadIdMarker ? { UploadIdMarker: page.NextUploadIdMarker } : {}),
        };
      }
    },

    async *listParts(act: Act, Key: string, UploadId: string): AsyncGenerator<StoredPart> {
      for (let PartNumberMarker: string | undefined; ;) {
        const page = await asked(
          act,
          client.send(
            new ListPartsCommand({ Bucket, Key, UploadId, ...(PartNumberMarker ? { PartNumberMarker } : {}) }),
          ),
        );
        for (const { PartNumber = 0, ETag = '', Size = 0, ChecksumCRC32 } of page.Parts ?? []) {
          yield { number: PartNumber, etag: ETag, sizeBytes: Size, checksum: ChecksumCRC32 };
        }
        PartNumberMarker = page.NextPartNumberMarker;
        if (page.IsTruncated !== true || !PartNumberMarker) return;
      }
    },

    /** Stores bytes [first, last] of another object as a part. */
    async copyPart(
      act: Act,
      Key: string,
      part: { uploadId: string; number: number; from: string; first: number; last: number },
    ): Promise<void> {
      const { uploadId: UploadId, number: PartNumber, from, first, last } = part;
      const CopySource = `${Bucket}/${from}`;
      const CopySourceRange = `bytes=${first}-${last}`;
      const input = { Bucket, Key, UploadId, PartNumber, CopySource, CopySourceRange };
      await asked(act, client.send(new UploadPartCopyCommand(input), slowly));
    },

    async completeUpload(
      act: Act,
      Key: string,
      { uploadId: UploadId, parts, ifAbsent }: { uploadId: string; parts: StoredPart[]; ifAbsent: boolean },
    ): Promise<void> {
      const Parts = parts.map(({ number: PartNumber, etag: ETag, checksum }) => ({
        PartNumber,
        ETag,
        ...(checksum === undefined ? {} : { ChecksumCRC32: checksum }),
      }));
      await asked(
        act,
        client.send(
          new CompleteMultipartUploadCommand({
            Bucket,
            Key,
            UploadId,
            MultipartUpload: { Parts },
            ...(ifAbsent ? { IfNoneMatch: '*' } : {}),
          }),
          slowly,
        ),
      );
    },

    async abortUpload(act: Act, Key: string, UploadId: string): Promise<void> {
      await asked(act, client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId }), slowly));
    },
  };
}
export type S3Control = ReturnType<typeof controlOf>;

const modeOf = ({ mode }: BlobLock): 'COMPLIANCE' | 'GOVERNANCE' =>
  mode === 'compliance' ? 'COMPLIANCE' : 'GOVERNANCE';

function lockIn(found: HeadObjectCommandOutput): { lock?: BlobLock } {
  const { ObjectLockMode: mode, ObjectLockRetainUntilDate: until } = found;
  if (mode === undefined || until === undefined) return {};
  return { lock: { mode: mode === 'COMPLIANCE' ? 'compliance' : 'governance', untilMs: until.getTime() } };
}

const triesOf = (error: unknown): number =>
  (error as { $metadata?: { attempts?: number } } | undefined)?.$metadata?.attempts ?? 1;
