import { Channel, describeAddress, ExactReader, type NbdAddress } from './channel.ts';
import { NbdConnectionLost, NbdProtocolError } from './errors.ts';
import { overlay, type NbdExtent } from './extents.ts';
import { greet, negotiateExport, negotiateList, type NbdExportInfo, type NegotiatedExport } from './handshake.ts';
import { CMD_BLOCK_STATUS, CMD_DISC, CMD_READ, encodeRequest } from './protocol.ts';
import { ReplyReader } from './replies.ts';

export interface ConnectOptions {
  /** Ends the attempt to connect; commands take their own. */
  signal?: AbortSignal;
  /** For connecting and the whole handshake. Default 10,000. */
  timeoutMs?: number;
}

/** A stretch of the disk and the memory its bytes go to, as long as `into`. */
export interface ReadRequest {
  offset: number;
  into: Uint8Array;
}

/**
 * Longest read asked for at once. QEMU allocates memory for every request: at 2 MiB it spends twice the processor time of
 * 1 MiB on the same bytes, and below 512 KiB the number of requests costs more than it saves (measured with QEMU 7.2).
 */
const MAX_READ_BYTES = 1024 * 1024;
/** Longest stretch asked about at once. A multiple of every block size, and within 32 bits with room to spare. */
const MAX_STATUS_BYTES = 0x8000_0000;

/**
 * Connects to an export, ready for reads.
 * @param contexts metadata contexts for `extents`, all of which the server must have
 * @throws NbdConnectionLost (nobody listens, time is up), NbdRefused (`unknown` export or context, …), NbdProtocolError,
 * the signal's reason
 */
export async function connectNbd(
  address: NbdAddress,
  exportName: string,
  options: ConnectOptions & { contexts?: readonly string[] } = {},
): Promise<NbdConnection> {
  const { contexts = [] } = options;
  const { channel, negotiated, leftOver } = await shakeHands(address, options, (wire, reader) =>
    negotiateExport(wire, reader, exportName, contexts),
  );
  const connection = new NbdConnection(channel, negotiated, contexts);
  if (leftOver() > 0) {
    const error = new NbdProtocolError('NBD server sent data nobody asked for');
    channel.end(error);
    throw error;
  }
  return connection;
}

/**
 * Names of the exports a server offers.
 * @throws NbdConnectionLost, NbdRefused (`policy`: the server does not tell), NbdProtocolError, the signal's reason
 */
export async function listNbdExports(address: NbdAddress, options: ConnectOptions = {}): Promise<string[]> {
  const { channel, negotiated } = await shakeHands(address, options, negotiateList);
  await channel.close(undefined);
  return negotiated;
}

async function shakeHands<T>(
  address: NbdAddress,
  { signal, timeoutMs = 10_000 }: ConnectOptions,
  negotiate: (wire: Channel, reader: ExactReader) => Promise<T>,
): Promise<{ channel: Channel; negotiated: T; leftOver: () => number }> {
  signal?.throwIfAborted();
  const reader = new ExactReader();
  const channel = new Channel(address, reader);
  const onAbort = () => channel.end(signal?.reason as Error);
  signal?.addEventListener('abort', onAbort, { once: true });
  const late = () =>
    channel.end(new NbdConnectionLost(`NBD server ${describeAddress(address)}: no handshake in ${timeoutMs} ms`));
  const timer = setTimeout(late, timeoutMs);
  try {
    await greet(channel, reader);
    return { channel, negotiated: await negotiate(channel, reader), leftOver: () => reader.leftOver };
  } catch (error) {
    channel.end(error as Error);
    await channel.close(undefined);
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/** One connection to one export of an NBD server, for reading. Commands are pipelined: any number may be under way. */
export class NbdConnection implements AsyncDisposable {
  readonly info: NbdExportInfo;
  readonly #channel: Channel;
  readonly #replies = new ReplyReader();
  readonly #contextIds: readonly number[];
  #lastCookie = 0;

  constructor(channel: Channel, { info, contexts }: NegotiatedExport, wanted: readonly string[]) {
    this.info = info;
    this.#channel = channel;
    const ids = new Map([...contexts].map(([id, name]) => [name, id]));
    this.#contextIds = wanted.flatMap((name) => ids.get(name) ?? []);
    channel.attach(this.#replies);
  }

  /** Why the connection has ended; undefined while it stands. */
  get ended(): Error | undefined {
    return this.#channel.ended;
  }

  /**
   * Reads stretches of the disk, all at once; the bytes go from the socket straight to their places. Returns how many
   * bytes the server sent: holes are filled with zeroes here and not counted.
   * Until it settles the memory belongs to the connection. An abort ends the connection, with every command on it:
   * only so nothing is written into the memory afterwards.
   * @throws NbdError, NbdConnectionLost, NbdProtocolError, the signal's reason
   */
  async read(requests: readonly ReadRequest[], { signal }: { signal?: AbortSignal } = {}): Promise<number> {
    const answers: Promise<number>[] = [];
    const longest = Math.min(
      MAX_READ_BYTES,
      this.info.maxBlockBytes - (this.info.maxBlockBytes % this.info.minBlockBytes),
    );
    for (const { offset, into } of requests) {
      for (let at = 0; at < into.length; at += longest) {
        answers.push(this.#readOnce(offset + at, into.subarray(at, at + longest)));
      }
    }
    const outcomes = await this.#untilAborted(signal, Promise.allSettled(answers));
    let dataBytes = 0;
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') throw outcome.reason;
      dataBytes += outcome.value;
    }
    return dataBytes;
  }

  /**
   * What the contexts named when connecting say of a stretch of the disk, in order and without gap. Neighbours may have
   * the same flags; `joined` merges them.
   * @throws NbdError, NbdConnectionLost, NbdProtocolError, the signal's reason
   */
  async *extents({
    from = 0,
    to = this.info.sizeBytes,
    signal,
  }: { from?: number; to?: number; signal?: AbortSignal } = {}): AsyncGenerator<NbdExtent> {
    for (let at = from; at < to;) {
      const lengthBytes = Math.min(to - at, MAX_STATUS_BYTES);
      const cookie = this.#send(CMD_BLOCK_STATUS, at, lengthBytes);
      const answer = await this.#untilAborted(signal, this.#replies.expectStatus(cookie));
      const contexts = this.#contextIds.map((id) => {
        const raw = answer.get(id);
        if (raw) return raw;
        throw this.#broken(new NbdProtocolError(`NBD block status lacks context ${id}`));
      });
      for (const extent of this.#overlay(at, lengthBytes, contexts)) {
        yield extent;
        at = extent.offset + extent.lengthBytes;
      }
    }
  }

  /** Tells the server goodbye and closes. Commands under way fail with NbdConnectionLost. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#channel.close(encodeRequest(CMD_DISC, 0, 0, 0));
  }

  #readOnce(offset: number, into: Uint8Array): Promise<number> {
    return this.#replies.expectRead(this.#send(CMD_READ, offset, into.length), offset, into);
  }

  #send(type: number, offset: number, lengthBytes: number): number {
    const cookie = (this.#lastCookie = (this.#lastCookie + 1) >>> 0);
    if (!this.#channel.ended) this.#channel.write(encodeRequest(type, cookie, offset, lengthBytes));
    return cookie;
  }

  #overlay(...stretch: Parameters<typeof overlay>): NbdExtent[] {
    try {
      return overlay(...stretch);
    } catch (error) {
      throw this.#broken(error as Error);
    }
  }

  #broken(error: Error): Error {
    this.#channel.end(error);
    return error;
  }

  async #untilAborted<T>(signal: AbortSignal | undefined, answer: Promise<T>): Promise<T> {
    if (!signal) return await answer;
    const onAbort = () => this.#channel.end(signal.reason as Error);
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await answer;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }
}
