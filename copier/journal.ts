import { closeSync, fsyncSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
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
  /** Of an encrypted file. */
  recipient?: string;
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
  /** What follows the disk's segments: filled gaps, tables, header. */
  tail: SegmentSum[];
}

/** A part of an upload that has got its last segment. */
export interface NotedPart {
  /** From 1. */
  number: number;
  /** Of the plain file. */
  offset: number;
  lengthBytes: number;
}

/** A part that is stored, without those that hold tables or header. */
export interface StoredPart {
  number: number;
  /** What in it belongs to no segment. */
  fillers: SegmentSum[];
}

/** Where the data of a file ended, in the part that was open then. */
export interface DataEnd {
  number: number;
  offset: number;
  end: number;
}

/** Start of an encrypted file, and what its chunks are sealed with: a later attempt must go on with the same. */
export interface NotedKey {
  head: Buffer;
  payloadKey: Buffer;
}

/**
 * Records: type u8, length of the body u32, body, CRC-32 of all that before. Numbers are little-endian.
 * 0: identity, JSON, first. 1: a read begins: segment u32, bytes u32. 2: a segment is stored: segment u32, length u32,
 * offset f64, read bytes u32, SHA-256, then a u32 per cluster. 3: the file is complete: JSON.
 * 4: a segment has its place and its bytes, which may be stored or not: as 2. 5: the segment of such a record is stored: u32.
 * 6: a part gets no more segments: JSON. 7: a part is stored: JSON. 8: the data ends: JSON. 9: another attempt begins; segments
 * in parts that are open are given up. 10: head and payload key of an encrypted file.
 */
const IDENTITY = 0;
const OPENED = 1;
const STORED = 2;
const FINISHED = 3;
const PLACED = 4;
const STORED_IN_PLACE = 5;
const PART_CLOSED = 6;
const PART_STORED = 7;
const DATA_ENDED = 8;
const RESUMED = 9;
const KEY = 10;
const VERSION = 1;
const RECORD_HEAD_BYTES = 5;
const CRC_BYTES = 4;
const STORED_HEAD_BYTES = 52;
/** The longest record is that of a finished file: some hundred bytes per 4 MiB of tables. */
const MAX_RECORD_BYTES = 16 * 1024 * 1024;
const PAYLOAD_KEY_BYTES = 32;
const READ_BYTES = 1024 * 1024;

/**
 * Notes of one copy, appended as it goes, so that the attempt after a kill goes on where this one was. Written without
 * sync: a killed process loses nothing, and after a power cut the journal is refused by its boot id.
 */
export class Journal implements Disposable {
  readonly #file: number;
  /** Set when an earlier attempt completed the file. */
  finished: FinishedFile | undefined;
  /** Bytes read by earlier attempts, those of reads that were cut off included. */
  readBytes = 0;
  /** Segments, by index, whose place and bytes are settled though they may not be stored. */
  readonly placed = new Map<number, StoredSegment>();
  /** In order, without gap, from number 1. */
  readonly closedParts: NotedPart[] = [];
  readonly storedParts = new Map<number, StoredPart>();
  dataEnd: DataEnd | undefined;
  key: NotedKey | undefined;

  private constructor(file: number) {
    this.#file = file;
  }

  /**
   * Opens the journal of a copy, or begins it. A torn record at its end, and all behind it, is cut off.
   * @param onStored told of every segment that an earlier attempt stored
   * @throws CopierError `journal-mismatch` when it belongs to another copy
   */
  static async open(
    path: string,
    identity: JournalIdentity,
    onStored: (segment: StoredSegment) => void,
  ): Promise<Journal> {
    await mkdir(dirname(path), { recursive: true });
    const journal = new Journal(openSync(path, 'a+', 0o600));
    try {
      journal.#replay(path, JSON.stringify({ version: VERSION, ...identity }), onStored);
      return journal;
    } catch (error) {
      journal[Symbol.dispose]();
      throw error;
    }
  }

  #replay(path: string, identity: string, onStored: (segment: StoredSegment) => void): void {
    const opened = new Map<number, number>();
    let validBytes = 0;
    for (const { type, body, end } of readRecords(this.#file)) {
      if (validBytes === 0 && (type !== IDENTITY || body.toString() !== identity)) {
        throw new CopierError('journal-mismatch', `journal ${path} belongs to another copy; delete it and the upload`, {
          file: path,
        });
      }
      validBytes = end;
      if (type === OPENED) {
        opened.set(body.readUInt32LE(0), body.readUInt32LE(4));
        this.readBytes += body.readUInt32LE(4);
      } else if (type === STORED) {
        const segment = decodeStored(body);
        onStored(segment);
        this.readBytes += segment.readBytes - (opened.get(segment.index) ?? 0);
        opened.delete(segment.index);
      } else if (type === PLACED) {
        const segment = decodeStored(body);
        this.placed.set(segment.index, segment);
        this.readBytes += segment.readBytes - (opened.get(segment.index) ?? 0);
        opened.delete(segment.index);
      } else if (type === STORED_IN_PLACE) {
        const segment = this.placed.get(body.readUInt32LE(0));
        if (segment) onStored(segment);
        this.placed.delete(body.readUInt32LE(0));
      } else if (type === PART_CLOSED) {
        this.closedParts.push(JSON.parse(body.toString()) as NotedPart);
      } else if (type === PART_STORED) {
        const part = JSON.parse(body.toString()) as StoredPart;
        this.storedParts.set(part.number, part);
      } else if (type === DATA_ENDED) {
        this.dataEnd = JSON.parse(body.toString()) as DataEnd;
      } else if (type === RESUMED) {
        this.#giveUpOpenPart();
      } else if (type === KEY) {
        this.key = {
          head: Buffer.from(body.subarray(PAYLOAD_KEY_BYTES)),
          payloadKey: Buffer.from(body.subarray(0, PAYLOAD_KEY_BYTES)),
        };
      } else if (type === FINISHED) {
        this.finished = JSON.parse(body.toString()) as FinishedFile;
      }
    }
    ftruncateSync(this.#file, validBytes);
    if (validBytes === 0) this.#append(IDENTITY, Buffer.from(identity));
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

  /** A segment's place and bytes are settled: what a later attempt stores there must be the same. */
  segmentPlaced(segment: StoredSegment): void {
    this.#append(PLACED, encodeStored(segment));
  }

  /** A segment that was noted by `segmentPlaced` is in the file. */
  segmentStoredInPlace(index: number): void {
    const body = Buffer.allocUnsafe(4);
    body.writeUInt32LE(index);
    this.#append(STORED_IN_PLACE, body);
  }

  /** A part gets no more segments; those in it keep their places from now on. */
  partClosed(part: NotedPart): void {
    this.#append(PART_CLOSED, Buffer.from(JSON.stringify(part)));
  }

  partStored(part: StoredPart): void {
    this.#append(PART_STORED, Buffer.from(JSON.stringify(part)));
  }

  /** Every segment is placed and noted; those in the open part keep their places too. */
  dataEnded(dataEnd: DataEnd): void {
    this.#append(DATA_ENDED, Buffer.from(JSON.stringify(dataEnd)));
  }

  /** Begins an attempt at an upload in parts: what lies in the part that was open is placed anew. */
  resumeParts(): void {
    if (this.placed.size === 0) return;
    this.#giveUpOpenPart();
    this.#append(RESUMED, Buffer.alloc(0));
  }

  /** What an encrypted file is sealed with from now on. */
  keyMade(key: NotedKey): void {
    const { head, payloadKey } = key;
    this.key = key;
    this.#append(KEY, Buffer.concat([payloadKey, head]));
    fsyncSync(this.#file); // before anything is sealed with it
  }

  #giveUpOpenPart(): void {
    if (this.dataEnd) return;
    const last = this.closedParts.at(-1);
    const end = last ? last.offset + last.lengthBytes : 0;
    for (const [index, { offset, lengthBytes }] of this.placed) {
      if (lengthBytes > 0 && offset >= end) this.placed.delete(index);
    }
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
  /** Valid until the next record is asked for. */
  body: Buffer;
  /** Where in the file the record ends. */
  end: number;
}

/** The records up to the first that is torn. */
function* readRecords(file: number): Generator<JournalRecord> {
  let bytes = Buffer.alloc(0);
  for (let at = 0; ;) {
    const length = bytes.length < RECORD_HEAD_BYTES ? undefined : RECORD_HEAD_BYTES + bytes.readUInt32LE(1);
    if (length === undefined || bytes.length < length + CRC_BYTES) {
      if (length !== undefined && length > MAX_RECORD_BYTES) return;
      const more = Buffer.allocUnsafe(READ_BYTES);
      const count = readSync(file, more, 0, READ_BYTES, at + bytes.length);
      if (count === 0) return;
      bytes = Buffer.concat([bytes, more.subarray(0, count)]);
      continue;
    }
    if (crc32(bytes.subarray(0, length)) !== bytes.readUInt32LE(length)) return;
    at += length + CRC_BYTES;
    yield { type: bytes.readUInt8(0), body: bytes.subarray(RECORD_HEAD_BYTES, length), end: at };
    bytes = bytes.subarray(length + CRC_BYTES);
  }
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
