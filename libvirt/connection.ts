import type { Duplex } from 'node:stream';
import { CALLS, type Procedure } from './calls.ts';
import { LibvirtConnectionLost, LibvirtError, LibvirtRefused, LibvirtTimeout } from './errors.ts';
import { packetBytes, type Packet, PacketReader } from './packet.ts';
import {
  AUTH,
  FEATURE,
  HEADER_BYTES,
  KEEPALIVE,
  MESSAGE_MAX_BYTES,
  MESSAGE_STATUS,
  MESSAGE_TYPE,
  PROGRAM,
  PROGRAM_VERSION,
  remoteError,
} from './protocol.ts';
import { encode, XdrError, XdrReader } from './xdr.ts';

/** What every call takes. */
export interface CallOptions {
  /** Ends the waiting. A call that was sent goes on in libvirt: its outcome is unknown. */
  signal?: AbortSignal | undefined;
  timeoutMs?: number | undefined;
}

export interface ConnectionOptions {
  /** Which driver to open; `qemu:///system` for the system daemon. */
  uri?: string;
  /** How long silence may last before a ping is sent. */
  keepaliveIntervalMs?: number;
  /** How many pings in a row may stay unanswered. */
  keepaliveCount?: number;
  /** For a call that names no limit of its own. */
  defaultTimeoutMs?: number;
}

/** Gets each event message of the daemon, by its procedure number. */
export type EventHandler = (procedure: number, payload: Buffer) => void;

/**
 * The daemon takes 5 calls at a time from one connection (`max_client_requests`), one of which is its receive buffer:
 * with 5 outstanding it stops reading, keepalive answers included.
 */
export const MAX_CALLS_IN_FLIGHT = 4;

interface Call {
  procedure: Procedure<unknown, unknown>;
  payload: Buffer;
  serial: number;
  /** Undefined once the caller stopped waiting: the serial stays taken until the daemon answers. */
  waiter: { resolve(value: never): void; reject(error: unknown): void } | undefined;
  /** For a call that is followed by a stream of data. */
  stream: { maxBytes: number; chunks: Buffer[]; bytes: number; reply: unknown } | undefined;
}

/** What a call gave whose reply is followed by data. */
export interface StreamedReply<R> {
  reply: R;
  data: Buffer;
}

/** One RPC connection: matches replies to calls by serial, keeps to the daemon's limits, notices its death. */
export class Connection {
  readonly #socket: Duplex;
  readonly #options: Required<ConnectionOptions>;
  readonly #reader = new PacketReader();
  /** Sent and unanswered, by serial; also those nobody waits for any more. */
  readonly #inFlight = new Map<number, Call>();
  readonly #queue: Call[] = [];
  readonly #closed = Promise.withResolvers<Error>();
  #lastSerial = 0;
  #lost: Error | undefined;
  #onEvent: EventHandler = () => {};
  #keepalive: NodeJS.Timeout | undefined;
  #unansweredPings = 0;

  private constructor(socket: Duplex, options: ConnectionOptions) {
    this.#socket = socket;
    this.#options = {
      uri: 'qemu:///system',
      keepaliveIntervalMs: 5_000,
      keepaliveCount: 5,
      defaultTimeoutMs: 60_000,
      ...options,
    };
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#lose(error));
    const onEnd = (): void => this.#lose(new Error('the daemon closed the connection'));
    socket.on('end', onEnd); // an SSH channel stays half open
    socket.on('close', onEnd);
  }

  /** Authenticates, agrees on keepalive and opens the driver. The socket is destroyed when that fails. */
  static async open(socket: Duplex, options: ConnectionOptions, call: CallOptions = {}): Promise<Connection> {
    const connection = new Connection(socket, options);
    try {
      await connection.#authenticate(call);
      // Asking for it makes the daemon ping us; it must be asked before the driver is opened.
      const keepalive = await connection.call(CALLS.supportsFeature, { feature: FEATURE.KEEPALIVE }, call);
      if (keepalive.supported) connection.#startKeepalive();
      await connection.call(CALLS.connectOpen, { name: connection.#options.uri, flags: 0 }, call);
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** Resolves with the reason once the connection is gone; never rejects. */
  get closed(): Promise<Error> {
    return this.#closed.promise;
  }

  get isOpen(): boolean {
    return this.#lost === undefined;
  }

  /** Calls that are sent or wait to be, abandoned ones included. */
  get load(): number {
    return this.#inFlight.size + this.#queue.length;
  }

  /** Events may arrive in the same read as the reply to their registration: set this before registering. */
  onEvent(handler: EventHandler): void {
    this.#onEvent = handler;
  }

  async call<A, R>(procedure: Procedure<A, R>, args: A, options: CallOptions = {}): Promise<R> {
    return await this.#enqueue<A, R>(procedure, args, options, undefined);
  }

  /** A call whose reply is followed by data. For small things: the data is held in memory. */
  async callWithData<A, R>(
    procedure: Procedure<A, R>,
    args: A,
    maxBytes: number,
    options: CallOptions = {},
  ): Promise<StreamedReply<R>> {
    return await this.#enqueue<A, StreamedReply<R>>(procedure, args, options, maxBytes);
  }

  close(): void {
    this.#lose(new Error('closed by us'));
  }

  async #enqueue<A, T>(
    procedure: Procedure<A, unknown>,
    args: A,
    options: CallOptions,
    maxBytes: number | undefined,
  ): Promise<T> {
    const { signal, timeoutMs = this.#options.defaultTimeoutMs } = options;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    signal?.throwIfAborted();
    if (this.#lost !== undefined) throw connectionLost(procedure.name, this.#lost, false);
    const call: Call = {
      procedure: procedure,
      payload: encodeArguments(procedure, args),
      serial: 0,
      waiter: { resolve, reject },
      stream: maxBytes === undefined ? undefined : { maxBytes, chunks: [], bytes: 0, reply: undefined },
    };
    const onAbort = (): void => this.#abandon(call, signal?.reason);
    const timer = setTimeout(() => {
      this.#abandon(call, new LibvirtTimeout(procedure.name, timeoutMs, call.serial !== 0));
    }, timeoutMs);
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#queue.push(call);
    this.#pump();
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Sends what waits, as far as the daemon's limit allows. */
  #pump(): void {
    while (this.#lost === undefined && this.#inFlight.size < MAX_CALLS_IN_FLIGHT) {
      const call = this.#queue.shift();
      if (call === undefined) return;
      this.#lastSerial = (this.#lastSerial % 0xffffffff) + 1;
      call.serial = this.#lastSerial;
      this.#inFlight.set(call.serial, call);
      this.#send(call, MESSAGE_TYPE.CALL, MESSAGE_STATUS.OK, call.payload);
    }
  }

  #send(
    { procedure, serial }: { procedure: { program: number; number: number }; serial: number },
    type: number,
    status: number,
    payload: Buffer,
  ): void {
    this.#socket.write(
      packetBytes(
        { program: procedure.program, version: PROGRAM_VERSION, procedure: procedure.number, type, serial, status },
        payload,
      ),
    );
  }

  #abandon(call: Call, reason: unknown): void {
    const waiter = call.waiter;
    call.waiter = undefined;
    const queued = this.#queue.indexOf(call);
    if (queued !== -1) this.#queue.splice(queued, 1);
    waiter?.reject(reason);
  }

  #receive(chunk: Buffer): void {
    if (this.#lost !== undefined) return;
    this.#unansweredPings = 0;
    this.#keepalive?.refresh();
    try {
      for (const packet of this.#reader.push(chunk)) this.#handle(packet);
    } catch (error) {
      this.#lose(new Error(`the daemon sent what is not libvirt's protocol: ${message(error)}`, { cause: error }));
    }
  }

  #handle({ header, payload }: Packet): void {
    if (header.program === PROGRAM.KEEPALIVE) {
      if (header.procedure === KEEPALIVE.PING) this.#sendKeepalive(KEEPALIVE.PONG);
      return;
    }
    if (header.type === MESSAGE_TYPE.MESSAGE) {
      this.#onEvent(header.procedure, payload);
      return;
    }
    const call = this.#inFlight.get(header.serial);
    if (call === undefined) throw new Error(`an answer to call ${header.serial}, which was never made`);
    if (header.status === MESSAGE_STATUS.ERROR) {
      const { code, domain, message: text } = remoteError.read(new XdrReader(payload));
      this.#settle(call)?.reject(new LibvirtError(call.procedure.name, code, domain, text ?? `libvirt error ${code}`));
    } else if (header.type === MESSAGE_TYPE.REPLY) {
      const reply = call.procedure.ret.read(new XdrReader(payload));
      if (call.stream === undefined) this.#settle(call)?.resolve(reply as never);
      else call.stream.reply = reply; // data follow, maybe in this very read
    } else if (header.type === MESSAGE_TYPE.STREAM && call.stream !== undefined) {
      this.#handleStream(call, call.stream, header.status, payload);
    } else {
      throw new Error(`a message of type ${header.type} in answer to ${call.procedure.name}`);
    }
  }

  /** The daemon ends its data with an empty packet; we say OK to that and get its OK. */
  #handleStream(call: Call, stream: NonNullable<Call['stream']>, status: number, payload: Buffer): void {
    if (status === MESSAGE_STATUS.OK) {
      this.#settle(call)?.resolve({ reply: stream.reply, data: Buffer.concat(stream.chunks) } as never);
    } else if (payload.length === 0) {
      this.#send(call, MESSAGE_TYPE.STREAM, MESSAGE_STATUS.OK, payload);
    } else {
      stream.bytes += payload.length;
      if (stream.bytes > stream.maxBytes) throw new Error(`a stream of more than ${stream.maxBytes} bytes`);
      stream.chunks.push(payload);
    }
  }

  /** Takes the call off the books and lets the next one go. */
  #settle(call: Call): Call['waiter'] {
    this.#inFlight.delete(call.serial);
    this.#pump();
    return call.waiter;
  }

  async #authenticate(call: CallOptions): Promise<void> {
    const { types } = await this.call(CALLS.authList, {}, call);
    if (types.length === 0 || types.includes(AUTH.NONE)) return;
    if (types.includes(AUTH.POLKIT)) {
      await this.call(CALLS.authPolkit, {}, call);
      return;
    }
    throw new LibvirtRefused(
      `libvirt asks for ${types.includes(AUTH.SASL) ? 'SASL' : `authentication of type ${types.join(', ')}`}, ` +
        'which Holdfast does not speak: give it a unix socket, or SSH to one',
    );
  }

  /** Counts pings, not time: a worker that was busy for long must not take the daemon for dead. */
  #startKeepalive(): void {
    const { keepaliveIntervalMs, keepaliveCount } = this.#options;
    this.#keepalive = setInterval(() => {
      if (this.#unansweredPings >= keepaliveCount) {
        this.#lose(new Error(`the daemon did not answer ${keepaliveCount} keepalive pings`));
        return;
      }
      this.#unansweredPings += 1;
      this.#sendKeepalive(KEEPALIVE.PING);
    }, keepaliveIntervalMs);
    this.#keepalive.unref();
  }

  #sendKeepalive(number: number): void {
    const procedure = { program: PROGRAM.KEEPALIVE, number };
    this.#send({ procedure, serial: 0 }, MESSAGE_TYPE.MESSAGE, MESSAGE_STATUS.OK, Buffer.alloc(0));
  }

  #lose(reason: Error): void {
    if (this.#lost !== undefined) return;
    this.#lost = reason;
    clearInterval(this.#keepalive);
    this.#socket.destroy();
    for (const call of this.#inFlight.values()) {
      call.waiter?.reject(connectionLost(call.procedure.name, reason, true));
    }
    for (const call of this.#queue) call.waiter?.reject(connectionLost(call.procedure.name, reason, false));
    this.#inFlight.clear();
    this.#queue.length = 0;
    this.#closed.resolve(reason);
  }
}

/** Refuses here, before it is sent, what the daemon would close the connection for. */
function encodeArguments<A>(procedure: Procedure<A, unknown>, args: A): Buffer {
  const payload = encode(procedure.args, args);
  if (payload.length + HEADER_BYTES <= MESSAGE_MAX_BYTES) return payload;
  throw new XdrError(`${procedure.name} with ${payload.length} bytes is longer than libvirt takes`);
}

const message = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const connectionLost = (procedure: string, reason: Error, sent: boolean): LibvirtConnectionLost =>
  new LibvirtConnectionLost(`the connection to libvirt was lost during ${procedure}: ${reason.message}`, {
    cause: reason,
    sent,
  });
