import { once } from 'node:events';
import { chmod, chown, rename, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { NbdConnectionLost, NbdProtocolError } from './errors.ts';
import {
  CMD_BLOCK_STATUS,
  CMD_DISC,
  CMD_FLAG_REQ_ONE,
  CMD_READ,
  CMD_WRITE,
  readUInt53BE,
  REQUEST_MAGIC,
} from './protocol.ts';
import {
  ALLOCATION_ID,
  MAX_BLOCK_BYTES,
  receiveClient,
  type ChosenExport,
  type ClientWire,
} from './server-handshake.ts';
import { ClientInput } from './server-input.ts';
import {
  blockStatus,
  failed,
  simpleRead,
  structuredRead,
  type AllocationExtent,
  type ReadPart,
} from './server-replies.ts';

/** A disk that is only read. */
export interface ServedDisk {
  sizeBytes: number;
  /** Together the parts are exactly what was asked for, which lies inside the disk. Their bytes do not change before `release`. */
  read(
    offset: number,
    lengthBytes: number,
    options: { signal: AbortSignal },
  ): Promise<{ parts: ReadPart[]; release?: () => void }>;
  /** From `offset` on, without gap, at least one extent; may end before `lengthBytes`, and not after. */
  extents(offset: number, lengthBytes: number, options: { signal: AbortSignal }): Promise<AllocationExtent[]>;
}

export interface ListenOptions {
  /** Unix socket; one that is there is taken over. */
  socketPath: string;
  exports: ReadonlyMap<string, ServedDisk>;
  /** Who may connect besides this process's user; undefined: nobody. */
  owner?: { uid: number; gid: number } | undefined;
  /** What ended a connection, or failed a request. The client has been told. */
  onProblem: (error: Error) => void;
}

/** Source: errno(3); the protocol's numbers are Linux's. */
const EPERM = 1;
const EIO = 5;
const EINVAL = 22;
const ENOTSUP = 95;

/** Requests of one connection at work at once, and their bytes; more wait in the socket. */
const MAX_REQUESTS = 64;
const MAX_REQUESTED_BYTES = 32 * 1024 * 1024;

/**
 * Serves disks read-only over NBD on a unix socket: fixed newstyle, structured replies, `base:allocation`, any number of
 * connections, many requests of each at once. The socket appears under its name when it can be connected to.
 */
export async function listenNbd({ socketPath, exports, owner, onProblem }: ListenOptions): Promise<AsyncDisposable> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    void serve(socket, exports, onProblem);
  });
  const beside = `${socketPath}.new`;
  await rm(beside, { force: true });
  server.listen(beside);
  await once(server, 'listening');
  server.on('error', onProblem); // a connection that could not be taken, for want of a file number; the others go on
  await chmod(beside, 0o600);
  if (owner !== undefined && process.getuid?.() === 0) await chown(beside, owner.uid, owner.gid);
  await rename(beside, socketPath);
  return {
    async [Symbol.asyncDispose]() {
      await closed(server, sockets);
      await rm(socketPath, { force: true });
    },
  };
}

async function closed(server: Server, sockets: ReadonlySet<Socket>): Promise<void> {
  const over = once(server, 'close');
  server.close();
  for (const socket of sockets) socket.destroy();
  await over;
}

/** One connection, from its greeting to its end. */
async function serve(
  socket: Socket,
  exports: ReadonlyMap<string, ServedDisk>,
  onProblem: (error: Error) => void,
): Promise<void> {
  const gone = new AbortController();
  socket.on('error', () => undefined); // 'close' follows
  socket.once('close', () => gone.abort(new NbdConnectionLost('the NBD client has gone')));
  try {
    const input = new ClientInput(socket);
    const wire: ClientWire = {
      read: (lengthBytes) => input.read(lengthBytes),
      write: (bytes) => void socket.write(bytes),
    };
    const chosen = await receiveClient(wire, exports);
    if (chosen !== undefined) await transmit(socket, input, chosen, gone.signal, onProblem);
    socket.end();
  } catch (error) {
    if (!(error instanceof NbdConnectionLost)) onProblem(error as Error);
    socket.destroy();
  }
}

/** Takes requests until the client disconnects; answers come as they are ready, in any order. */
async function transmit(
  socket: Socket,
  input: ClientInput,
  { disk, isStructured, hasAllocation }: ChosenExport<ServedDisk>,
  signal: AbortSignal,
  onProblem: (error: Error) => void,
): Promise<void> {
  const running = new Set<Promise<void>>();
  let requestedBytes = 0;
  for (;;) {
    while (running.size >= MAX_REQUESTS || requestedBytes >= MAX_REQUESTED_BYTES) await Promise.race(running);
    // magic u32, flags u16, type u16, cookie u64, offset u64, length u32
    const head = await input.read(28);
    if (head.readUInt32BE(0) !== REQUEST_MAGIC) throw new NbdProtocolError('NBD client sent no request');
    const flags = head.readUInt16BE(4);
    const type = head.readUInt16BE(6);
    const cookie = Buffer.from(head.subarray(8, 16));
    const offset = readUInt53BE(head, 16);
    const lengthBytes = head.readUInt32BE(24);
    if (type === CMD_DISC) break;
    if (type === CMD_WRITE) await input.skip(lengthBytes);
    let release = (): void => undefined;
    const answer = async (): Promise<Uint8Array[]> => {
      const refuse = (errno: number, what: string) => failed(cookie, errno, what, isStructured);
      const isInside = offset + lengthBytes <= disk.sizeBytes;
      switch (type) {
        case CMD_READ: {
          if (!isInside || lengthBytes > MAX_BLOCK_BYTES) return refuse(EINVAL, 'not inside the disk, or too long');
          const read = await disk.read(offset, lengthBytes, { signal });
          release = read.release ?? release;
          return isStructured ? structuredRead(cookie, offset, read.parts) : simpleRead(cookie, read.parts);
        }
        case CMD_BLOCK_STATUS: {
          if (!hasAllocation || !isInside || lengthBytes === 0) return refuse(EINVAL, 'no context, or not in the disk');
          const extents = await disk.extents(offset, lengthBytes, { signal });
          const isOne = (flags & CMD_FLAG_REQ_ONE) !== 0;
          return blockStatus(cookie, ALLOCATION_ID, isOne ? extents.slice(0, 1) : extents);
        }
        case CMD_WRITE:
          return refuse(EPERM, 'the disk is only read');
        default:
          return refuse(ENOTSUP, `command ${type}`);
      }
    };
    const payloadBytes = type === CMD_READ ? Math.min(lengthBytes, MAX_BLOCK_BYTES) : 0;
    requestedBytes += payloadBytes;
    const run = answer()
      .catch((error: unknown) => {
        if (!signal.aborted) onProblem(error as Error);
        return failed(cookie, EIO, error instanceof Error ? error.message : String(error), isStructured);
      })
      .then((pieces) => send(socket, pieces, signal))
      .finally(() => {
        release();
        requestedBytes -= payloadBytes;
        running.delete(run);
      });
    running.add(run);
  }
  await Promise.all(running);
}

/** Writes the pieces of one answer together, and waits until the client has taken them: their memory may be used anew then. */
async function send(socket: Socket, pieces: readonly Uint8Array[], signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const taken = Promise.withResolvers<undefined>();
  socket.cork();
  for (const piece of pieces.slice(0, -1)) socket.write(piece);
  socket.write(pieces.at(-1) ?? new Uint8Array(), () => taken.resolve(undefined)); // also when the client has gone: nobody waits for it
  process.nextTick(() => socket.uncork());
  await taken.promise;
}
