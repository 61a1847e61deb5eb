/**
 * Numbers of the Network Block Device protocol. All integers on the wire are big-endian.
 * Source: NetworkBlockDevice/nbd doc/proto.md, "Values"
 */
export const NBDMAGIC = 0x4e42444d41474943n;
export const IHAVEOPT = 0x49484156454f5054n;
export const REPLY_MAGIC = 0x0003e889045565a9n;

export const FLAG_FIXED_NEWSTYLE = 0x1;
export const FLAG_NO_ZEROES = 0x2;

export const OPT_EXPORT_NAME = 1;
export const OPT_ABORT = 2;
export const OPT_LIST = 3;
export const OPT_INFO = 6;
export const OPT_GO = 7;
export const OPT_STRUCTURED_REPLY = 8;
export const OPT_LIST_META_CONTEXT = 9;
export const OPT_SET_META_CONTEXT = 10;

export const REP_ACK = 1;
export const REP_SERVER = 2;
export const REP_INFO = 3;
export const REP_META_CONTEXT = 4;
/** Replies with this bit are errors. */
export const REP_ERROR_BIT = 0x80000000;
export const REP_ERR_UNSUP = 0x80000001;
export const REP_ERR_INVALID = 0x80000003;
export const REP_ERR_UNKNOWN = 0x80000006;
export const REP_ERR_TOO_BIG = 0x80000009;

export const INFO_EXPORT = 0;
export const INFO_BLOCK_SIZE = 3;

export const TRANSMISSION_HAS_FLAGS = 0x1;
export const TRANSMISSION_READ_ONLY = 0x2;
export const TRANSMISSION_CAN_MULTI_CONN = 0x100;

export const CMD_READ = 0;
export const CMD_WRITE = 1;
export const CMD_DISC = 2;
export const CMD_BLOCK_STATUS = 7;
/** Of a block status command: one extent is enough. */
export const CMD_FLAG_REQ_ONE = 0x8;

export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const CHUNK_FLAG_DONE = 0x1;
export const CHUNK_NONE = 0;
export const CHUNK_OFFSET_DATA = 1;
export const CHUNK_OFFSET_HOLE = 2;
export const CHUNK_BLOCK_STATUS = 5;
export const CHUNK_ERROR = 0x8001;
export const CHUNK_ERROR_OFFSET = 0x8002;
/** Chunks whose type has this bit report an error, also those of types not known here. */
export const CHUNK_ERROR_BIT = 0x8000;

/** Longest string the protocol allows: an export's or a context's name, in bytes of UTF-8. */
export const MAX_STRING_BYTES = 4096;

/** `base:allocation`: nothing is stored for the extent. */
export const STATE_HOLE = 0x1;
/** `base:allocation`: the extent reads as zeroes. A hole without this bit may hold anything. */
export const STATE_ZERO = 0x2;
/** `qemu:dirty-bitmap:<name>`: the extent is dirty. Source: qemu docs/interop/nbd.txt */
export const STATE_DIRTY = 0x1;

/**
 * A request: 28 bytes. magic u32, flags u16, type u16, cookie u64, offset u64, length u32. The upper half of our cookies is 0.
 */
export function encodeRequest(type: number, cookie: number, offset: number, length: number): Buffer {
  const request = Buffer.allocUnsafe(28);
  request.writeUInt32BE(REQUEST_MAGIC, 0);
  request.writeUInt16BE(0, 4);
  request.writeUInt16BE(type, 6);
  request.writeUInt32BE(0, 8);
  request.writeUInt32BE(cookie, 12);
  request.writeUInt32BE(Math.floor(offset / 0x1_0000_0000), 16);
  request.writeUInt32BE(offset % 0x1_0000_0000, 20);
  request.writeUInt32BE(length, 24);
  return request;
}

/** An option of the handshake: IHAVEOPT u64, option u32, length u32, data. */
export function encodeOption(option: number, data: Uint8Array = new Uint8Array()): Buffer {
  const head = Buffer.allocUnsafe(16);
  head.writeBigUInt64BE(IHAVEOPT, 0);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(data.length, 12);
  return Buffer.concat([head, data]);
}

/** A string of the handshake: length u32, UTF-8. @throws RangeError when it is longer than the protocol allows */
export function encodeString(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  if (bytes.length > MAX_STRING_BYTES)
    throw new RangeError(`NBD name of ${bytes.length} bytes; at most ${MAX_STRING_BYTES}`);
  const length = Buffer.allocUnsafe(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

/** Data of NBD_OPT_GO: export name, then the kinds of information wanted. */
export function encodeGo(exportName: string): Buffer {
  const wanted = Buffer.alloc(4);
  wanted.writeUInt16BE(1, 0);
  wanted.writeUInt16BE(INFO_BLOCK_SIZE, 2);
  return encodeOption(OPT_GO, Buffer.concat([encodeString(exportName), wanted]));
}

/** Data of NBD_OPT_SET_META_CONTEXT: export name, count u32, the contexts' names. */
export function encodeSetMetaContext(exportName: string, contexts: readonly string[]): Buffer {
  const count = Buffer.allocUnsafe(4);
  count.writeUInt32BE(contexts.length);
  return encodeOption(
    OPT_SET_META_CONTEXT,
    Buffer.concat([encodeString(exportName), count, ...contexts.map(encodeString)]),
  );
}

/** A 64-bit number of the wire that must fit a double exactly: sizes and offsets do, up to 8 PiB. */
export function readUInt53BE(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * 0x1_0000_0000 + bytes.readUInt32BE(at + 4);
}
