import {
  CHUNK_BLOCK_STATUS,
  CHUNK_ERROR,
  CHUNK_FLAG_DONE,
  CHUNK_NONE,
  CHUNK_OFFSET_DATA,
  CHUNK_OFFSET_HOLE,
  REPLY_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STATE_HOLE,
  STATE_ZERO,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.ts';

/** A stretch of a read, in the disk's order: bytes, or so many zeroes. */
export type ReadPart = Uint8Array | number;

/** A stretch of the disk, for `base:allocation`. */
export interface AllocationExtent {
  lengthBytes: number;
  /** It reads as zeroes, and nothing is stored for it. */
  isZero: boolean;
}

/** Who asked: the eight bytes of the request's cookie, as they came. */
type Cookie = Uint8Array;

const ZEROES = Buffer.alloc(256 * 1024);

/**
 * Answer to an option: magic u64, option u32, type u32, length u32, data.
 * Source of all formats here: NetworkBlockDevice/nbd doc/proto.md
 */
export function optionReply(option: number, type: number, data: Uint8Array = new Uint8Array()): Buffer {
  const head = Buffer.allocUnsafe(20);
  head.writeBigUInt64BE(REPLY_MAGIC, 0);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(data.length, 16);
  return Buffer.concat([head, data]);
}

/** A read that is answered in chunks: zeroes are told, not sent. */
export function structuredRead(cookie: Cookie, offset: number, parts: readonly ReadPart[]): Uint8Array[] {
  if (parts.length === 0) return [chunk(cookie, CHUNK_NONE, 0, true)];
  const pieces: Uint8Array[] = [];
  const runs = runsOf(parts);
  let at = offset;
  for (const [index, run] of runs.entries()) {
    const isLast = index === runs.length - 1;
    if (typeof run === 'number') {
      const hole = Buffer.allocUnsafe(12);
      writeOffset(hole, at);
      hole.writeUInt32BE(run, 8);
      pieces.push(chunk(cookie, CHUNK_OFFSET_HOLE, 12, isLast), hole);
      at += run;
    } else {
      const lengthBytes = run.reduce((sum, { length }) => sum + length, 0);
      const place = Buffer.allocUnsafe(8);
      writeOffset(place, at);
      pieces.push(chunk(cookie, CHUNK_OFFSET_DATA, 8 + lengthBytes, isLast), place, ...run);
      at += lengthBytes;
    }
  }
  return pieces;
}

/** Bytes that follow each other go in one chunk: a client takes each with a few system calls of its own. */
function runsOf(parts: readonly ReadPart[]): (Uint8Array[] | number)[] {
  const runs: (Uint8Array[] | number)[] = [];
  for (const part of parts) {
    const last = runs.at(-1);
    if (typeof part === 'number') runs.push(part);
    else if (typeof last === 'object') last.push(part);
    else runs.push([part]);
  }
  return runs;
}

/** A read for a client that takes no chunks: all its bytes, zeroes too. */
export function simpleRead(cookie: Cookie, parts: readonly ReadPart[]): Uint8Array[] {
  return [simple(cookie, 0), ...parts.flatMap((part) => (typeof part === 'number' ? zeroes(part) : [part]))];
}

/** The extents of one context, which the request's client has chosen by `contextId`. */
export function blockStatus(cookie: Cookie, contextId: number, extents: readonly AllocationExtent[]): Uint8Array[] {
  const body = Buffer.allocUnsafe(4 + 8 * extents.length);
  body.writeUInt32BE(contextId, 0);
  for (const [index, { lengthBytes, isZero }] of extents.entries()) {
    body.writeUInt32BE(lengthBytes, 4 + index * 8);
    body.writeUInt32BE(isZero ? STATE_HOLE | STATE_ZERO : 0, 8 + index * 8);
  }
  return [chunk(cookie, CHUNK_BLOCK_STATUS, body.length, true), body];
}

/** A request that failed; `what` is for people, and only a client that takes chunks is told. */
export function failed(cookie: Cookie, errno: number, what: string, isStructured: boolean): Uint8Array[] {
  if (!isStructured) return [simple(cookie, errno)];
  const said = Buffer.from(what, 'utf8').subarray(0, 1024);
  const body = Buffer.allocUnsafe(6);
  body.writeUInt32BE(errno, 0);
  body.writeUInt16BE(said.length, 4);
  return [chunk(cookie, CHUNK_ERROR, 6 + said.length, true), body, said];
}

/** A request that has succeeded and has nothing to tell. */
export const done = (cookie: Cookie, isStructured: boolean): Uint8Array[] => [
  isStructured ? chunk(cookie, CHUNK_NONE, 0, true) : simple(cookie, 0),
];

/** magic u32, flags u16, type u16, cookie, length u32 */
function chunk(cookie: Cookie, type: number, lengthBytes: number, isLast: boolean): Buffer {
  const head = Buffer.allocUnsafe(20);
  head.writeUInt32BE(STRUCTURED_REPLY_MAGIC, 0);
  head.writeUInt16BE(isLast ? CHUNK_FLAG_DONE : 0, 4);
  head.writeUInt16BE(type, 6);
  head.set(cookie, 8);
  head.writeUInt32BE(lengthBytes, 16);
  return head;
}

/** magic u32, error u32, cookie */
function simple(cookie: Cookie, errno: number): Buffer {
  const head = Buffer.allocUnsafe(16);
  head.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
  head.writeUInt32BE(errno, 4);
  head.set(cookie, 8);
  return head;
}

function zeroes(lengthBytes: number): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  for (let left = lengthBytes; left > 0; left -= ZEROES.length) pieces.push(ZEROES.subarray(0, left));
  return pieces;
}

function writeOffset(into: Buffer, offset: number): void {
  into.writeUInt32BE(Math.floor(offset / 0x1_0000_0000), 0);
  into.writeUInt32BE(offset % 0x1_0000_0000, 4);
}
