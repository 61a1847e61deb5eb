import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import { CopierError, type SegmentSum } from './contract.ts';

/** What a journal belongs to: an attempt with any other value must not use it. */
export interface JournalIdentity {
  mapSha256: string;
  clusterBytes: number;
  compression: 'zstd' | 'none';
  backingFileName: string | null;
  sink: string;
  /** After a power cut what the journal calls stored may be lost, and the frozen disk is gone with its QEMU. */
  bootId: string;
}

export interface StoredSegment {
  index: number;
  offset: number;
  lengthBytes: number;
  sha256: Buffer;
  /** What was read for it. */
  readBytes: number;
  /** See place-clusters.ts. */
  sizes: Uint32Array;
}

export interface FinishedFile {
  storedBytes: number;
  segments: SegmentSum[];
}

/**
 * Records: type u8, length of the body u32, body, CRC-32 of all that before. Numbers are little-endian.
 * 0: identity, JSON, first. 1: a read begins: segment u32, bytes u32. 2: a segment is stored: segment u32, length u32,
 * offset f64, read bytes u32, SHA-256, then a u32 per cluster. 3: the file is complete: JSON.
 */
const IDENTITY = 0;
const OPENED = 1;
const STORED = 2;
const FINISHED = 3;
const VERSION = 1;
const RECORD_HEAD_BYTES = 5;
const CRC_BYTES = 4;
const STORED_HEAD_BYTES = 52;

/**
 * Notes of one copy, appended as it goes, so that the attempt after a kill goes on where this one was. Written without
 * sync: a killed process loses nothing, and after a power cut the journal is refused by its boot id.
 */
export class Journal implements Disposable {
  readonly #file: number;
  readonly stored: readonly StoredSegment[];
  readonly finished: FinishedFile | undefined;
  /** Bytes read by earlier attempts, those of reads that were cut off included. */
  readonly readBytes: number;

  /**
   * Opens the journal of a copy, or begins it. A torn record at its end, and all behind it, is cut off.
   * @throws CopierError `journal-mismatch` when it belongs to another copy
   */
  static async open(path: string, identity: JournalIdentity): Promise<Journal> {
    await mkdir(dirname(path), { recursive: true });
    const file = openSync(path, 'a+', 0o600);
    try {
      return new Journal(file, path, { version: VERSION, ...identity });
    } catch (error) {
      closeSync(file);
      throw error;
    }
  }

  private constructor(file: number, path: string, identity: JournalIdentity & { version: number }) {
    this.#file = file;
    const bytes = readFileSync(file);
    const { records, validBytes } = readRecords(bytes);
    if (validBytes < bytes.length) ftruncateSync(file, validBytes);
    const wanted = JSON.stringify(identity);
    const first = records.next();
    if (first.done === true) {
      this.#append(IDENTITY, Buffer.from(wanted));
    } else if (first.value.type !== IDENTITY || first.value.body.toString() !== wanted) {
      throw new CopierError('journal-mismatch', `journal ${path} belongs to another copy; delete it and the upload`, {
        file: path,
      });
    }
    const stored = new Map<number, StoredSegment>();
    const opened = new Map<number, number>();
    let readBytes = 0;
    for (const { type, body } of records) {
      if (type === OPENED) {
        opened.set(body.readUInt32LE(0), body.readUInt32LE(4));
        readBytes += body.readUInt32LE(4);
      } else if (type === STORED) {
        const segment = decodeStored(body);
        stored.set(segment.index, segment);
        readBytes += segment.readBytes - (opened.get(segment.index) ?? 0);
      } else if (type === FINISHED) {
        this.finished = JSON.parse(body.toString()) as FinishedFile;
      }
    }
    this.stored = [...stored.values()];
    this.readBytes = readBytes;
  }

  /** A segment's read is about to begin. */
  opened(index: number, readBytes: number): void {
    const body = Buffer.allocUnsafe(8);
    body.writeUInt32LE(index, 0);
    body.writeUInt32LE(readBytes, 4);
    this.#append(OPENED, body);
  }

  /** A segment's bytes are in the file. */
  segmentStored(segment: StoredSegment): void {
    this.#append(STORED, encodeStored(segment));
  }

  /** The file is complete, tables and header included. */
  fileFinished(file: FinishedFile): void {
    this.#append(FINISHED, Buffer.from(JSON.stringify(file)));
    fsyncSync(this.#file);
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }

  #append(type: number, body: Buffer): void {
    const record = Buffer.allocUnsafe(RECORD_HEAD_BYTES + body.length + CRC_BYTES);
    record.writeUInt8(type, 0);
    record.writeUInt32LE(body.length, 1);
    body.copy(record, RECORD_HEAD_BYTES);
    record.writeUInt32LE(crc32(record.subarray(0, -CRC_BYTES)), record.length - CRC_BYTES);
    writeSync(this.#file, record);
  }
}

interface JournalRecord {
  type: number;
  body: Buffer;
}

function readRecords(bytes: Buffer): {
  records: Iterator<JournalRecord> & Iterable<JournalRecord>;
  validBytes: number;
} {
  const records: JournalRecord[] = [];
  let at = 0;
  while (at + RECORD_HEAD_BYTES + CRC_BYTES <= bytes.length) {
    const end = at + RECORD_HEAD_BYTES + bytes.readUInt32LE(at + 1);
    if (end + CRC_BYTES > bytes.length || crc32(bytes.subarray(at, end)) !== bytes.readUInt32LE(end)) break;
    records.push({ type: bytes.readUInt8(at), body: bytes.subarray(at + RECORD_HEAD_BYTES, end) });
    at = end + CRC_BYTES;
  }
  return { records: records.values(), validBytes: at };
}

function encodeStored({ index, offset, lengthBytes, sha256, readBytes, sizes }: StoredSegment): Buffer {
  const body = Buffer.allocUnsafe(STORED_HEAD_BYTES + sizes.length * 4);
  body.writeUInt32LE(index, 0);
  body.writeUInt32LE(lengthBytes, 4);
  body.writeDoubleLE(offset, 8);
  body.writeUInt32LE(readBytes, 16);
  sha256.copy(body, 20, 0, 32);
  sizes.forEach((size, i) => body.writeUInt32LE(size, STORED_HEAD_BYTES + i * 4));
  return body;
}

function decodeStored(body: Buffer): StoredSegment {
  const sizes = new Uint32Array((body.length - STORED_HEAD_BYTES) / 4);
  for (let i = 0; i < sizes.length; i++) sizes[i] = body.readUInt32LE(STORED_HEAD_BYTES + i * 4);
  return {
    index: body.readUInt32LE(0),
    lengthBytes: body.readUInt32LE(4),
    offset: body.readDoubleLE(8),
    readBytes: body.readUInt32LE(16),
    sha256: Buffer.from(body.subarray(20, 52)),
    sizes,
  };
}
