import type { BlobSinkDescriptor, BlobSourceDescriptor, PartSink } from '../repository/blob-store.ts';
import type { SegmentSum } from '../repository/sums.ts';
import type { Pace } from './pace.ts';

export type { SegmentSum };

/** The frozen disk that a copy reads. */
export interface CopySource {
  /** Unix socket of an NBD server, absolute. */
  socketPath: string;
  exportName: string;
  /** `base:allocation` for a full, `qemu:dirty-bitmap:<name>` for an incremental. */
  mapContext: string;
  /** For `qemu:allocation-depth`: how many layers, from the top, hold changes. Default 1. */
  allocationDepth?: number | undefined;
  virtualSizeBytes: number;
}

/** An upload of a blob store: a file that threads write to, or parts that are handed over. */
export type CopySink = BlobSinkDescriptor | PartSink;

export interface CopyDiskOptions {
  source: CopySource;
  /** File name of the parent, in the same folder; its presence makes the copy an incremental. */
  backingFileName?: string;
  compression: 'zstd' | 'none';
  /** The file is encrypted to this X25519 recipient, `age1…`: see repository/age-file.ts. Its key lies in the journal while the copy runs. */
  recipient?: string | undefined;
  sink: CopySink;
  /** Local file in which finished segments are noted, so that a later attempt goes on after them. */
  journalPath: string;
  signal: AbortSignal;
  /** How fast it may store; default: as fast as it goes. */
  pace?: Pace;
  onProgress?: (progress: CopyProgress) => void;
  /** Called once, before the first byte is stored, with what the change map promises; may throw to stop the copy. */
  onPlanned?: (plan: { changedBytes: number; expectedStoredBytes: number }) => Promise<void>;
}

export interface CopyProgress {
  copiedBytes: number;
  totalBytes: number;
  storedBytes: number;
}

export interface CopyResult {
  /** What the change map calls changed: dirty bytes of an incremental, allocated bytes of a full. */
  changedBytes: number;
  /** What was read over NBD, by all attempts together. */
  readBytes: number;
  /** Length of the finished file. */
  storedBytes: number;
  /** Of an encrypted file: length of the qcow2 file in it. */
  plainBytes?: number;
  clusterBytes: number;
  /** Of the stored file, in its order. */
  segments: SegmentSum[];
  /** Segments taken over from an earlier attempt. */
  resumedSegments: number;
}

/** One file of a chain, base first. Lengths, segments and their hashes are of the bytes as stored. */
export interface ChainFile {
  source: BlobSourceDescriptor;
  storedBytes: number;
  segments: SegmentSum[];
  /** Absent: the stored file is the qcow2 file itself. To compare hashes the key is not needed. */
  encryption?: OpenedEncryption | undefined;
}

/** What it takes to read an encrypted file; see repository/age-file.ts. */
export interface OpenedEncryption {
  /** Of the file's chunks, 32 bytes; secret. */
  payloadKey: Uint8Array;
  /** Length of the qcow2 file in it. */
  plainBytes: number;
}

export interface RestoreDiskOptions {
  chain: ChainFile[];
  /** Created anew; an existing file of that name is an error. */
  destination: { path: string; format: 'qcow2' | 'raw' };
  virtualSizeBytes: number;
  signal: AbortSignal;
  onProgress?: (progress: { verifiedBytes: number; totalBytes: number }) => void;
}

export interface RestoreResult {
  /** Stored bytes that were read and matched the manifest's hashes: all of the chain's files. */
  verifiedBytes: number;
  writtenBytes: number;
}

export interface RewriteOptions {
  /** What the new file holds, base first: one file, or several that are merged. */
  chain: ChainFile[];
  /** File that the first of the chain is layered on, and the new one will be; absent when the new file is a full. */
  backingFileName?: string;
  virtualSizeBytes: number;
  compression: 'zstd' | 'none';
  /** As in `CopyDiskOptions`. */
  recipient?: string | undefined;
  sink: CopySink;
  /** Called when all is written, before it is read again: makes the new file readable. */
  finish: (storedBytes: number) => Promise<BlobSourceDescriptor>;
  /** The new file gets another length than this, if need be by a cluster of zeroes behind its end. */
  otherThanBytes?: number;
  signal: AbortSignal;
  /** Of what is read, twice, and of what is written. */
  pace?: Pace;
  onProgress?: (progress: { doneBytes: number; totalBytes: number }) => void;
}

export interface RewriteResult {
  /** Length of the new file. */
  storedBytes: number;
  /** Of an encrypted file: length of the qcow2 file in it. */
  plainBytes?: number;
  segments: SegmentSum[];
  clusterBytes: number;
  /** Guest's bytes that were read for it. */
  describedBytes: number;
}

export interface TransferOptions {
  file: ChainFile;
  sink: BlobSinkDescriptor | PartSink;
  /** An earlier attempt began: what it wrote is compared, and written again only where it is not right. */
  resumed: boolean;
  pace?: Pace;
  signal: AbortSignal;
  onProgress?: (doneBytes: number) => void;
}

export interface TransferResult {
  writtenBytes: number;
}

export interface RecryptOptions {
  /** Opened where it is encrypted. */
  file: ChainFile;
  sink: CopySink;
  /**
   * X25519, `age1…`; absent: the new file is not encrypted. The file's key is new with each call and lies nowhere, so a later
   * attempt begins anew.
   */
  recipient?: string | undefined;
  pace?: Pace;
  signal: AbortSignal;
  /** Of the new file. */
  onProgress?: (doneBytes: number) => void;
}

export interface RecryptResult {
  /** Length of the new file. */
  storedBytes: number;
  /** Length of the qcow2 file in it. */
  plainBytes: number;
  /** Of the new file. */
  segments: SegmentSum[];
}

/** Threads that read, hash, compress and write, shared by all disks of a worker process. */
export interface CopierPool extends AsyncDisposable {
  copyDisk(options: CopyDiskOptions): Promise<CopyResult>;
  restoreDisk(options: RestoreDiskOptions): Promise<RestoreResult>;
  /**
   * Writes what a stored file holds, or a chain of them, into another file, and proves by reading both that the guest finds
   * the same in it: data, explicit zeroes, and what is left to the file beneath. Every byte read is compared with its hash.
   */
  rewriteFile(options: RewriteOptions): Promise<RewriteResult>;
  /** Writes a stored file into another place as it is, every segment once its hash is right. */
  transferFile(options: TransferOptions): Promise<TransferResult>;
  /**
   * Encrypts, decrypts or encrypts anew a stored file on its way into another place, every segment once its hash is right: see
   * repository/age-file.ts. Plain bytes of an encrypted file are in memory alone.
   */
  recryptFile(options: RecryptOptions): Promise<RecryptResult>;
  /** Reads every segment of a stored file and compares its hash. */
  verifyFile(
    file: ChainFile,
    options: { signal: AbortSignal; pace?: Pace; onProgress?: (verifiedBytes: number) => void },
  ): Promise<void>;
}

export type CopierErrorCode =
  'integrity' | 'file-missing' | 'job-lost' | 'journal-mismatch' | 'destination-exists' | 'destination-full';

/** `file` names the blob or path. Store errors pass through as BlobStoreError. */
export class CopierError extends Error {
  override readonly name = 'CopierError';
  readonly code: CopierErrorCode;
  readonly file: string | undefined;
  constructor(code: CopierErrorCode, message: string, options?: ErrorOptions & { file?: string }) {
    super(message, options);
    this.code = code;
    this.file = options?.file;
  }
}
