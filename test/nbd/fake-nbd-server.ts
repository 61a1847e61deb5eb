import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CHUNK_BLOCK_STATUS,
  CHUNK_ERROR,
  CHUNK_FLAG_DONE,
  CHUNK_NONE,
  CHUNK_OFFSET_DATA,
  CMD_BLOCK_STATUS,
  CMD_DISC,
  CMD_READ,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  IHAVEOPT,
  INFO_EXPORT,
  NBDMAGIC,
  OPT_GO,
  OPT_SET_META_CONTEXT,
  OPT_STRUCTURED_REPLY,
  REP_ACK,
  REP_ERROR_BIT,
  REP_INFO,
  REP_META_CONTEXT,
  REPLY_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from '../../nbd/protocol.ts';

export interface FakeRequest {
  type: number;
  cookie: number;
  offset: number;
  lengthBytes: number;
  /** Counts the server's commands from 1 on, over all connections. */
  number: number;
}

export interface FakeNbdOptions {
  sizeBytes: number;
  flags?: number;
  /** Bytes of the disk; default: the low byte of each 4 KiB page's number. */
  contentAt?: (offset: number, lengthBytes: number) => Buffer;
  contexts?: string[];
  /** Extents of context `index` for a request: lengths and flags by turns. Default: all of it, flags 0. */
  extentsOf?: (index: number, request: FakeRequest) => number[];
  /** Speaks for the server; what it returns is sent instead of the usual answer. undefined: the usual one. */
  onRequest?: (request: FakeRequest, socket: Socket) => Buffer | undefined;
  hasStructuredReplies?: boolean;
  /** Sent instead of the greeting. */
  greeting?: Buffer;
  /** Sent instead of the answer to an option. */
  onOption?: (option: number) => Buffer | undefined;
}

/** An NBD server in the test's own process that can be made to misbehave. */
export class FakeNbdServer implements AsyncDisposable {
  readonly socketPath = join(mkdtempSync(join(tmpdir(), 'fake-nbd-')), 'nbd.sock');
  readonly requests: FakeRequest[] = [];
  connections = 0;
  readonly #options: FakeNbdOptions;
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((socket) => this.#serve(socket));

  static async start(options: FakeNbdOptions): Promise<FakeNbdServer> {
    const fake = new FakeNbdServer(options);
    fake.#server.listen(fake.socketPath);
    await once(fake.#server, 'listening');
    return fake;
  }

  private constructor(options: FakeNbdOptions) {
    this.#options = options;
  }

  /** Cuts every connection; new ones are still accepted. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await new Promise<void>((resolve) => void this.#server.close(() => resolve()));
    rmSync(join(this.socketPath, '..'), { recursive: true, force: true });
  }

  #serve(socket: Socket): void {
    this.connections++;
    this.#sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => this.#sockets.delete(socket));
    socket.write(this.#options.greeting ?? greeting());
    let arrived = Buffer.alloc(0);
    let isGreeted = false;
    let isTransmitting = false;
    socket.on('data', (bytes) => {
      arrived = Buffer.concat([arrived, bytes]);
      for (;;) {
        if (!isGreeted) {
          if (arrived.length < 4) return;
          arrived = arrived.subarray(4);
          isGreeted = true;
        } else if (!isTransmitting) {
          if (arrived.length < 16 || arrived.length < 16 + arrived.readUInt32BE(12)) return;
          const option = arrived.readUInt32BE(8);
          const data = arrived.subarray(16, 16 + arrived.readUInt32BE(12));
          arrived = arrived.subarray(16 + data.length);
          socket.write(this.#options.onOption?.(option) ?? this.#answerOption(option));
          isTransmitting = option === OPT_GO;
        } else {
          if (arrived.length < 28) return;
          const request: FakeRequest = {
            type: arrived.readUInt16BE(6),
            cookie: arrived.readUInt32BE(12),
            offset: Number(arrived.readBigUInt64BE(16)),
            lengthBytes: arrived.readUInt32BE(24),
            number: this.requests.length + 1,
          };
          arrived = arrived.subarray(28);
          if (request.type === CMD_DISC) return void socket.end();
          this.requests.push(request);
          const answer = this.#options.onRequest?.(request, socket) ?? this.#answer(request);
          if (socket.writable) socket.write(answer);
        }
      }
    });
  }

  #answerOption(option: number): Buffer {
    const { sizeBytes, flags = 0x103, contexts = ['base:allocation'], hasStructuredReplies = true } = this.#options;
    const ack = reply(option, REP_ACK);
    if (option === OPT_STRUCTURED_REPLY) return hasStructuredReplies ? ack : reply(option, REP_ERROR_BIT + 1);
    if (option === OPT_SET_META_CONTEXT) {
      const offered = contexts.map((name, id) => {
        const data = Buffer.alloc(4 + name.length);
        data.writeUInt32BE(id + 1);
        data.write(name, 4);
        return reply(option, REP_META_CONTEXT, data);
      });
      return Buffer.concat([...offered, ack]);
    }
    if (option !== OPT_GO) return reply(option, REP_ERROR_BIT + 1);
    const info = Buffer.alloc(12);
    info.writeUInt16BE(INFO_EXPORT);
    info.writeBigUInt64BE(BigInt(sizeBytes), 2);
    info.writeUInt16BE(flags, 10);
    return Buffer.concat([reply(option, REP_INFO, info), ack]);
  }

  #answer(request: FakeRequest): Buffer {
    if (request.type === CMD_READ) {
      const content = (this.#options.contentAt ?? pageNumbers)(request.offset, request.lengthBytes);
      if (this.#options.hasStructuredReplies === false) return simple(request, content);
      return dataChunk(request, request.offset, content, true);
    }
    if (request.type !== CMD_BLOCK_STATUS) return errorChunk(request, 22);
    const count = this.#options.contexts?.length ?? 1;
    const chunks = Array.from({ length: count }, (_, index) => {
      const extents = this.#options.extentsOf?.(index, request) ?? [request.lengthBytes, 0];
      return statusChunk(request, index + 1, extents, index === count - 1);
    });
    return Buffer.concat(chunks);
  }
}

export function pageNumbers(offset: number, lengthBytes: number): Buffer {
  const content = Buffer.alloc(lengthBytes);
  for (let at = 0; at < lengthBytes;) {
    const page = Math.floor((offset + at) / 4096);
    const end = Math.min(lengthBytes, (page + 1) * 4096 - offset);
    content.fill(page % 256, at, end);
    at = end;
  }
  return content;
}

export function greeting(flags = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES, magic = NBDMAGIC, second = IHAVEOPT): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(magic, 0);
  bytes.writeBigUInt64BE(second, 8);
  bytes.writeUInt16BE(flags, 16);
  return bytes;
}

export function reply(option: number, type: number, data = Buffer.alloc(0), lengthBytes = data.length): Buffer {
  const head = Buffer.alloc(20);
  head.writeBigUInt64BE(REPLY_MAGIC, 0);
  head.writeUInt32BE(option, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(lengthBytes, 16);
  return Buffer.concat([head, data]);
}

type Cookie = Pick<FakeRequest, 'cookie'>;

export function chunk(
  { cookie }: Cookie,
  type: number,
  body: Buffer,
  isDone: boolean,
  lengthBytes = body.length,
): Buffer {
  const head = Buffer.alloc(20);
  head.writeUInt32BE(STRUCTURED_REPLY_MAGIC, 0);
  head.writeUInt16BE(isDone ? CHUNK_FLAG_DONE : 0, 4);
  head.writeUInt16BE(type, 6);
  head.writeBigUInt64BE(BigInt(cookie), 8);
  head.writeUInt32BE(lengthBytes, 16);
  return Buffer.concat([head, body]);
}

export function dataChunk(request: Cookie, offset: number, content: Buffer, isDone = false): Buffer {
  const place = Buffer.alloc(8);
  place.writeBigUInt64BE(BigInt(offset));
  return chunk(request, CHUNK_OFFSET_DATA, Buffer.concat([place, content]), isDone);
}

export function holeChunk(request: Cookie, offset: number, lengthBytes: number, isDone = false): Buffer {
  const body = Buffer.alloc(12);
  body.writeBigUInt64BE(BigInt(offset));
  body.writeUInt32BE(lengthBytes, 8);
  return chunk(request, 2, body, isDone);
}

export function errorChunk(request: Cookie, errno: number, message = ''): Buffer {
  const body = Buffer.alloc(6 + message.length);
  body.writeUInt32BE(errno);
  body.writeUInt16BE(message.length, 4);
  body.write(message, 6);
  return chunk(request, CHUNK_ERROR, body, true);
}

export function statusChunk(request: Cookie, context: number, extents: number[], isDone = true): Buffer {
  const body = Buffer.alloc(4 + extents.length * 4);
  body.writeUInt32BE(context);
  extents.forEach((word, i) => body.writeUInt32BE(word, 4 + i * 4));
  return chunk(request, CHUNK_BLOCK_STATUS, body, isDone);
}

export const noneChunk = (request: Cookie): Buffer => chunk(request, CHUNK_NONE, Buffer.alloc(0), true);

export function simple({ cookie }: Cookie, content: Buffer = Buffer.alloc(0), errno = 0): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
  head.writeUInt32BE(errno, 4);
  head.writeBigUInt64BE(BigInt(cookie), 8);
  return Buffer.concat([head, content]);
}
