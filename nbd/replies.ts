import { push, type Receiver } from './channel.ts';
import { NbdError, NbdProtocolError } from './errors.ts';
import {
  CHUNK_BLOCK_STATUS,
  CHUNK_ERROR_BIT,
  CHUNK_FLAG_DONE,
  CHUNK_NONE,
  CHUNK_OFFSET_DATA,
  CHUNK_OFFSET_HOLE,
  readUInt53BE,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './protocol.ts';

/** Extents of one context as the server sent them: length u32, flags u32, and so on, from the request's offset. */
export type RawExtents = Uint32Array;

interface PendingRead {
  kind: 'read';
  offset: number;
  into: Uint8Array;
  /** Stretches of `into` that have been filled: start, end. */
  filled: [number, number][];
  /** Bytes that came as data; the rest were holes. */
  dataBytes: number;
  error: Error | undefined;
  resolve: (dataBytes: number) => void;
  reject: (error: Error) => void;
}

interface PendingStatus {
  kind: 'status';
  extents: Map<number, RawExtents>;
  error: Error | undefined;
  resolve: (extents: Map<number, RawExtents>) => void;
  reject: (error: Error) => void;
}

type Pending = PendingRead | PendingStatus;

/** magic u32, flags u16, type u16, cookie u64, length u32; then, of a data chunk, its offset u64. */
const CHUNK_HEAD_BYTES = 20;
const DATA_HEAD_BYTES = 28;
/** magic u32, error u32, cookie u64. */
const SIMPLE_HEAD_BYTES = 16;
const MAX_ERROR_BYTES = 8192;
/** QEMU answers with at most 1 MiB of extents, nbdkit with at most 1 Mi extents. */
const MAX_STATUS_BYTES = 16 * 1024 * 1024;

/**
 * Takes the answers of the transmission phase apart, simple and structured ones, in any order. Payload of reads goes
 * straight to where the read wanted it. What a server may not send ends the connection with NbdProtocolError.
 * Source: NetworkBlockDevice/nbd doc/proto.md, "Simple reply message", "Structured reply chunk message"
 */
export class ReplyReader implements Receiver {
  readonly #pending = new Map<number, Pending>();
  readonly #head = Buffer.allocUnsafe(DATA_HEAD_BYTES);
  #headFilled = 0;
  /** What arrives now, if not a head: where the next bytes go and what to do when it is full. */
  #payload: { rest: Uint8Array; done: () => void } | undefined;
  #lost: Error | undefined;

  /** Commands still without an answer. */
  get pending(): number {
    return this.#pending.size;
  }

  /** Expects the answer to a read: `into` is filled with the disk's bytes from `offset`. Returns how many were data. */
  expectRead(cookie: number, offset: number, into: Uint8Array): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#expect(cookie, { kind: 'read', offset, into, filled: [], dataBytes: 0, error: undefined, resolve, reject });
    });
  }

  /** Expects the answer to a block status command. Returns the extents by context id. */
  expectStatus(cookie: number): Promise<Map<number, RawExtents>> {
    return new Promise((resolve, reject) => {
      this.#expect(cookie, { kind: 'status', extents: new Map(), error: undefined, resolve, reject });
    });
  }

  target(): Uint8Array {
    return this.#payload ? this.#payload.rest : this.#head.subarray(this.#headFilled);
  }

  advance(count: number): void {
    const payload = this.#payload;
    if (payload) {
      payload.rest = payload.rest.subarray(count);
      if (payload.rest.length > 0) return;
      this.#payload = undefined;
      payload.done();
      return;
    }
    this.#headFilled += count;
    const needed = this.#headNeeded();
    if (this.#headFilled < needed) return;
    const extra = Buffer.from(this.#head.subarray(needed, this.#headFilled)); // start of a payload or of the next head
    this.#headFilled = 0;
    if (this.#head.readUInt32BE(0) === SIMPLE_REPLY_MAGIC) this.#onSimple();
    else this.#onChunk();
    push(this, extra);
  }

  lost(error: Error): void {
    this.#lost = error;
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
    this.#payload = undefined;
    this.#headFilled = 0;
  }

  #expect(cookie: number, pending: Pending): void {
    if (this.#lost) pending.reject(this.#lost);
    else this.#pending.set(cookie, pending);
  }

  #headNeeded(): number {
    if (this.#headFilled < 4) return 4;
    const magic = this.#head.readUInt32BE(0);
    if (magic === SIMPLE_REPLY_MAGIC) return SIMPLE_HEAD_BYTES;
    if (magic !== STRUCTURED_REPLY_MAGIC) throw new NbdProtocolError(`NBD reply starts with 0x${magic.toString(16)}`);
    if (this.#headFilled < CHUNK_HEAD_BYTES) return CHUNK_HEAD_BYTES;
    return this.#head.readUInt16BE(6) === CHUNK_OFFSET_DATA ? DATA_HEAD_BYTES : CHUNK_HEAD_BYTES;
  }

  #onSimple(): void {
    const errno = this.#head.readUInt32BE(4);
    const cookie = this.#cookie();
    const pending = this.#pendingOf(cookie);
    if (errno !== 0) {
      pending.error = new NbdError(errno, describe(pending));
      this.#settle(cookie, pending);
    } else if (pending.kind === 'read') {
      this.#receive(pending.into, () => {
        pending.filled = [[0, pending.into.length]];
        pending.dataBytes = pending.into.length;
        this.#settle(cookie, pending);
      });
    } else {
      throw new NbdProtocolError('NBD server answered a block status command with a simple reply');
    }
  }

  #onChunk(): void {
    const isDone = (this.#head.readUInt16BE(4) & CHUNK_FLAG_DONE) !== 0;
    const type = this.#head.readUInt16BE(6);
    const length = this.#head.readUInt32BE(16);
    const cookie = this.#cookie();
    const pending = this.#pendingOf(cookie);
    const finish = () => {
      if (isDone) this.#settle(cookie, pending);
    };
    if (type === CHUNK_NONE) {
      if (length !== 0 || !isDone) throw new NbdProtocolError('malformed NBD chunk of type NONE');
      finish();
    } else if (type === CHUNK_OFFSET_DATA && pending.kind === 'read') {
      const dataBytes = length - 8;
      if (dataBytes < 1) throw new NbdProtocolError(`NBD data chunk of ${length} bytes`);
      const start = claim(pending, readUInt53BE(this.#head, CHUNK_HEAD_BYTES), dataBytes);
      pending.dataBytes += dataBytes;
      this.#receive(pending.into.subarray(start, start + dataBytes), finish);
    } else if (type === CHUNK_OFFSET_HOLE && pending.kind === 'read') {
      this.#collect(length, 12, 12, (body) => {
        const holeBytes = body.readUInt32BE(8);
        const start = claim(pending, readUInt53BE(body, 0), holeBytes);
        pending.into.fill(0, start, start + holeBytes);
        finish();
      });
    } else if (type === CHUNK_BLOCK_STATUS && pending.kind === 'status') {
      this.#collect(length, 12, MAX_STATUS_BYTES, (body) => {
        addExtents(pending, body);
        finish();
      });
    } else if ((type & CHUNK_ERROR_BIT) !== 0) {
      this.#collect(length, 6, MAX_ERROR_BYTES, (body) => {
        const said = body.toString('utf8', 6, 6 + Math.min(body.readUInt16BE(4), body.length - 6));
        const errno = body.readUInt32BE(0);
        if (errno === 0) throw new NbdProtocolError('NBD error chunk without an error');
        pending.error ??= new NbdError(errno, said === '' ? describe(pending) : `${describe(pending)} (${said})`);
        finish();
      });
    } else {
      throw new NbdProtocolError(`unexpected NBD chunk of type ${type}`);
    }
  }

  #cookie(): number {
    return readUInt53BE(this.#head, 8);
  }

  #pendingOf(cookie: number): Pending {
    const pending = this.#pending.get(cookie);
    if (!pending) throw new NbdProtocolError(`NBD reply to an unknown command ${cookie}`);
    return pending;
  }

  #receive(into: Uint8Array, done: () => void): void {
    if (into.length === 0) done();
    else this.#payload = { rest: into, done };
  }

  #collect(length: number, least: number, most: number, done: (body: Buffer) => void): void {
    if (length < least || length > most) throw new NbdProtocolError(`NBD chunk payload of ${length} bytes`);
    const body = Buffer.allocUnsafe(length);
    this.#receive(body, () => done(body));
  }

  #settle(cookie: number, pending: Pending): void {
    this.#pending.delete(cookie);
    if (pending.error) pending.reject(pending.error);
    else if (pending.kind === 'status') pending.resolve(pending.extents);
    else {
      const error = gapIn(pending);
      if (error) {
        pending.reject(error);
        throw error;
      }
      pending.resolve(pending.dataBytes);
    }
  }
}

const describe = (pending: Pending): string =>
  pending.kind === 'read'
    ? `NBD read of ${pending.into.length} bytes at ${pending.offset} failed`
    : 'NBD block status command failed';

/** Notes that a chunk fills part of a read. Returns where in the read it starts. */
function claim(pending: PendingRead, offset: number, lengthBytes: number): number {
  const start = offset - pending.offset;
  const end = start + lengthBytes;
  if (lengthBytes < 1 || start < 0 || end > pending.into.length) {
    throw new NbdProtocolError(`NBD chunk of ${lengthBytes} bytes at ${offset} is outside of its read`);
  }
  const last = pending.filled.at(-1);
  if (last?.[1] === start) last[1] = end;
  else pending.filled.push([start, end]);
  return start;
}

/** Chunks may come in any order, but together they are the read, each byte once. */
function gapIn(pending: PendingRead): Error | undefined {
  let at = 0;
  for (const [start, end] of pending.filled.sort((a, b) => a[0] - b[0])) {
    if (start !== at) break;
    at = end;
  }
  if (at === pending.into.length && pending.filled.at(-1)?.[1] === at) return undefined;
  if (at === 0 && pending.into.length === 0) return undefined;
  return new NbdProtocolError(
    `NBD chunks do not make up the read of ${pending.into.length} bytes at ${pending.offset}`,
  );
}

function addExtents(pending: PendingStatus, body: Buffer): void {
  const context = body.readUInt32BE(0);
  if ((body.length - 4) % 8 !== 0 || pending.extents.has(context)) {
    throw new NbdProtocolError('malformed NBD block status chunk');
  }
  const extents = new Uint32Array((body.length - 4) / 4);
  for (let i = 0; i < extents.length; i++) extents[i] = body.readUInt32BE(4 + i * 4);
  pending.extents.set(context, extents);
}
