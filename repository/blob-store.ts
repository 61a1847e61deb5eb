import type { Immutability, S3Place } from '../schemas/repository.ts';

/**
 * What a repository needs from the place that keeps its bytes. A directory and an S3 bucket both fulfil it, so it has
 * no seek-and-rewrite and no rename of data.
 *
 * In words, for every implementation (test/support/blob-store-suite.ts checks them):
 * - A blob is written once and never changed. Only `putBlob` with `replace` and `moveBlob` swap one, whole and atomically.
 * - An upload's bytes may arrive in any order and from several threads; ranges never overlap. Readers must not rely on
 *   a blob before `finish` has returned: a repository lists a backup only by its manifest, which comes later.
 * - When `finish`, `putBlob` or `moveBlob` has returned, the blob survives a power cut.
 * - An upload outlives the process that began it: `resumeUpload` with its token goes on, and ranges written before are kept.
 * - `delete` and `abort` succeed when there is nothing to remove.
 */
export interface BlobStore {
  /** Begins a blob that must not exist yet. @throws BlobStoreError `exists`, `full`, `read-only`, `unavailable` */
  createUpload(key: string, options: { expectedBytes: number }): Promise<BlobUpload>;
  /** Goes on with an upload; undefined when nothing of it is left. */
  resumeUpload(key: string, token: string): Promise<BlobUpload | undefined>;
  /** Writes a small blob whole. Without `replace` it must not exist, unless it holds the same bytes. */
  putBlob(key: string, content: Uint8Array, options?: { replace?: boolean }): Promise<void>;
  /** Reads a small blob whole. @throws BlobStoreError `not-found`, `too-large` */
  getBlob(key: string, options?: { maxBytes?: number }): Promise<Buffer>;
  /** undefined when there is no such blob. */
  statBlob(key: string): Promise<BlobInfo | undefined>;
  /** All blobs whose key starts with `prefix` (a whole folder, ending in "/", or ""). */
  listBlobs(prefix: string): AsyncIterable<BlobInfo>;
  /** Uploads that are not finished, in the same way; `listBlobs` does not show them. `deleteBlob` removes one. */
  listUploads(prefix: string): AsyncIterable<BlobInfo>;
  /** Removes what was uploaded under a key and not finished, and leaves a blob of that key alone. */
  discardUploads(key: string): Promise<void>;
  deleteBlob(key: string): Promise<void>;
  /**
   * Gives a finished blob another key, in place of what is there: a reader of `to` gets the former bytes or the new, whole.
   * Cut off in the middle it leaves one of the two, perhaps with `from` still there (a bucket copies, then deletes).
   * @throws BlobStoreError `not-found` when there is no blob `from`
   */
  moveBlob(from: string, to: string): Promise<void>;
  /** What a copier thread needs to read the blob; can cross a thread border. */
  source(key: string): BlobSourceDescriptor;
  /** Bytes that may still be stored; undefined where the place does not tell. */
  freeSpaceBytes(): Promise<number | undefined>;
  /**
   * Absent where the place has none. Of a locked blob `deleteBlob`, and `moveBlob` to its key, are refused with `locked`; one
   * that `putBlob` replaces stays locked, the former content behind it.
   */
  readonly locks?: BlobLocks;
}

/** A blob that cannot be removed or replaced by other content before a time, whoever asks: see `immutability`. */
export interface BlobLock {
  mode: Immutability['mode'];
  /** Milliseconds since 1970. */
  untilMs: number;
}

export interface BlobLocks {
  /** Why nothing can be locked here, with the remedy; undefined when it can. */
  problem(): Promise<string | undefined>;
  /** Keeps a blob for so long at least; a longer lock stays. @throws BlobStoreError `not-found` */
  lock(key: string, lock: BlobLock): Promise<void>;
  /** undefined: nothing keeps it. */
  lockedUntilMs(key: string): Promise<number | undefined>;
}

export interface BlobInfo {
  key: string;
  sizeBytes: number;
  /** Milliseconds since 1970. */
  modifiedMs: number;
}

export interface BlobUpload {
  readonly key: string;
  /** Names the upload for `resumeUpload`. Not a secret. */
  readonly token: string;
  /** Where the bytes go: a file that any thread opens, or parts that are handed over whole. */
  readonly sink: BlobSinkDescriptor | PartSink;
  /** Makes `totalBytes` durable as a blob. Every byte of [0, totalBytes) has been written by then. */
  finish(totalBytes: number): Promise<void>;
  /** Removes what was written. */
  abort(): Promise<void>;
}

/** `blobKey` is for messages. Descriptors can cross a thread border. */
export type BlobSinkDescriptor = { kind: 'file'; path: string; blobKey: string };
/** `s3`: the thread that opens it finds the credentials by itself; none are in here. */
export type BlobSourceDescriptor =
  { kind: 'file'; path: string; blobKey: string } | { kind: 's3'; place: S3Place; blobKey: string };

/**
 * An upload that takes whole parts, numbered from 1. A part begins where the one before it ends, so their order is the
 * blob's; they may be stored in any order, and several at once. A part that is stored again replaces the former one.
 */
export interface PartSink {
  readonly kind: 'parts';
  readonly blobKey: string;
  /** Tells this upload from any other of the same key: what has been noted of its parts counts only for it. Not a secret. */
  readonly identity: string;
  /** Every part but the last has at least this. */
  readonly minPartBytes: number;
  readonly maxPartBytes: number;
  readonly maxParts: number;
  /**
   * Stores one part; durable, and checked by the server against a checksum, when it returns. The bytes may lie in shared
   * memory and must not change before that.
   */
  putPart(number: number, bytes: Uint8Array, options: { signal: AbortSignal }): Promise<void>;
  /** Lengths of the parts that are stored, by number. For an attempt that goes on with the upload. */
  storedParts(): Promise<ReadonlyMap<number, number>>;
}

/** Opened inside a copier thread by `openSink`. */
export interface BlobSink extends AsyncDisposable {
  /** Writes all of `bytes` at `offset`. Fast when offset, length and memory are multiples of 4096. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
}

/** Opened inside a copier thread by `openSource`. */
export interface BlobSource extends AsyncDisposable {
  /**
   * Fills `bytes` from `offset` on; fewer bytes than asked only at the end of the blob. Returns the count.
   * @throws BlobStoreError; the signal's reason, at once where the bytes come over a network
   */
  read(offset: number, bytes: Uint8Array, options?: { signal?: AbortSignal }): Promise<number>;
  sizeBytes(): Promise<number>;
}

/**
 * - `denied`: the credentials are wrong, missing or may not do this.
 * - `no-bucket`: the bucket is not there.
 * - `clock-skew`: the server refuses requests because this machine's clock is off.
 * - `locked`: retention by the server keeps the blob.
 */
export type BlobStoreErrorCode =
  | 'not-found'
  | 'exists'
  | 'full'
  | 'read-only'
  | 'unavailable'
  | 'too-large'
  | 'invalid-key'
  | 'denied'
  | 'no-bucket'
  | 'clock-skew'
  | 'locked';

/** `key` is relative to the store. The message names the store's place and what the operating system said. */
export class BlobStoreError extends Error {
  override readonly name = 'BlobStoreError';
  readonly code: BlobStoreErrorCode;
  readonly key: string | undefined;
  constructor(code: BlobStoreErrorCode, message: string, options?: ErrorOptions & { key?: string }) {
    super(message, options);
    this.code = code;
    this.key = options?.key;
  }
}
