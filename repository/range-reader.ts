import { connect, type Socket } from 'node:net';
import type { IncomingHttpHeaders } from 'node:http';

/** A head longer than this is no answer of an object store. */
const HEAD_BYTES = 65_536;
const HEAD_END = '\r\n\r\n';

export interface RangeRequest {
  hostname: string;
  port: number;
  /** Path and query. */
  path: string;
  headers: Record<string, string>;
  /** Takes the body of a 2xx answer. */
  into: Uint8Array;
  /** Without a byte for this long it fails. */
  stalledMs: number;
  signal?: AbortSignal | undefined;
}

export interface RangeAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  /** Bytes of the body that came into the memory; of another answer than 2xx: none. */
  readBytes: number;
  /** The body of another answer than 2xx. */
  said: string;
}

/** The answer is of a kind that is left to node:http: in chunks, without a length, or longer than was asked for. */
export class UnusualAnswer extends Error {
  override readonly name = 'UnusualAnswer';
}

/**
 * GET requests over HTTP/1.1 whose bodies go from the socket straight into the memory they are for. node:http hands over
 * pieces of 64 KiB, each in memory of its own: with the copies and the garbage that is twice the processor time for each byte
 * (bench/README.md, "S3"). Source: RFC 9112, sections 2, 4, 6.3 and 9.3.
 */
export class RangeReader {
  readonly #idle: Connection[] = [];

  /**
   * @throws UnusualAnswer; an error of the socket, `ETIMEDOUT` after `stalledMs`, `ECONNRESET` when the answer ends early; the
   * signal's reason
   */
  async get(request: RangeRequest): Promise<RangeAnswer> {
    for (;;) {
      request.signal?.throwIfAborted();
      const kept = this.#idle.pop();
      if (kept?.isClosed) continue;
      const connection = kept ?? new Connection(request);
      try {
        const answer = await connection.get(request);
        if (connection.isReusable) this.#keep(connection);
        return answer;
      } catch (error) {
        connection.destroy();
        // The server may have closed it while it was idle. Source: RFC 9112, section 9.3.1
        if (kept && !connection.hasAnswered && !request.signal?.aborted && !isStall(error)) continue;
        throw error;
      }
    }
  }

  #keep(connection: Connection): void {
    connection.rest();
    this.#idle.push(connection);
  }
}

const isStall = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'ETIMEDOUT';

interface Exchange {
  request: RangeRequest;
  head: Omit<RangeAnswer, 'readBytes' | 'said'> | undefined;
  /** Where the body goes, and how much of it is there. */
  body: Uint8Array;
  done: number;
  outcome: PromiseWithResolvers<RangeAnswer>;
}

/** One connection, with one request at a time. */
class Connection {
  readonly #socket: Socket;
  readonly #headMemory = Buffer.allocUnsafeSlow(HEAD_BYTES);
  #headBytes = 0;
  #exchange: Exchange | undefined;
  isReusable = true;
  /** A byte of the answer to the last request has come. */
  hasAnswered = false;

  constructor({ hostname, port }: RangeRequest) {
    this.#socket = connect({
      host: hostname,
      port,
      noDelay: true,
      onread: {
        buffer: () => this.#room(),
        callback: (bytes) => this.#took(bytes),
      },
    });
    this.#socket.on('error', (error) => this.#fail(error));
    this.#socket.on('close', () => this.#fail(ended()));
    this.#socket.on('end', () => this.#fail(ended()));
    this.#socket.on('timeout', () => {
      const { stalledMs = 0 } = this.#exchange?.request ?? {};
      this.#fail(Object.assign(new Error(`no byte for ${stalledMs / 1000} seconds`), { code: 'ETIMEDOUT' }));
    });
  }

  get isClosed(): boolean {
    return !this.isReusable || this.#socket.destroyed;
  }

  destroy(): void {
    this.isReusable = false;
    this.#socket.destroy();
  }

  /** Waits for the next request; a process may end meanwhile. */
  rest(): void {
    this.#socket.setTimeout(0);
    this.#socket.unref();
  }

  async get(request: RangeRequest): Promise<RangeAnswer> {
    const outcome = Promise.withResolvers<RangeAnswer>();
    this.#exchange = { request, head: undefined, body: request.into, done: 0, outcome };
    this.#headBytes = 0;
    this.hasAnswered = false;
    this.#socket.ref();
    this.#socket.setTimeout(request.stalledMs);
    const { signal } = request;
    const onAbort = (): void => this.#fail(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      const lines = Object.entries(request.headers).map(([name, value]) => `${name}: ${value}\r\n`);
      this.#socket.write(
        `GET ${request.path} HTTP/1.1\r\n${lines.join('')}connection: keep-alive${HEAD_END}`,
        'latin1',
      );
      return await outcome.promise;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Where the next bytes go: first into that of the head, then into that of the body, as much as is missing. */
  #room(): Uint8Array {
    const { head, body, done } = this.#exchange ?? {};
    return head === undefined || body === undefined ? this.#headMemory.subarray(this.#headBytes) : body.subarray(done);
  }

  /** That many bytes lie where `#room` said. False: no more of them. */
  #took(bytes: number): boolean {
    const exchange = this.#exchange;
    if (exchange === undefined) {
      this.destroy(); // nobody asked for it
      return false;
    }
    this.hasAnswered = true;
    try {
      if (exchange.head === undefined) this.#readHead(exchange, bytes);
      else exchange.done += bytes;
      this.#endIfWhole(exchange);
    } catch (error) {
      this.#fail(error);
      return false;
    }
    return true;
  }

  #readHead(exchange: Exchange, bytes: number): void {
    this.#headBytes += bytes;
    const came = this.#headMemory.subarray(0, this.#headBytes);
    const end = came.indexOf(HEAD_END);
    if (end < 0) {
      if (this.#headBytes === HEAD_BYTES) throw new UnusualAnswer(`its head is longer than ${HEAD_BYTES} bytes`);
      return;
    }
    const { status, headers } = parseHead(came.toString('latin1', 0, end));
    const lengthBytes = headers['content-length'] === undefined ? NaN : Number(headers['content-length']);
    if (status < 200 || headers['transfer-encoding'] !== undefined || !Number.isSafeInteger(lengthBytes)) {
      throw new UnusualAnswer(`status ${status} without a length`);
    }
    const isGood = status < 300;
    if (lengthBytes > (isGood ? exchange.request.into.length : HEAD_BYTES)) {
      throw new UnusualAnswer(`a body of ${lengthBytes} bytes`);
    }
    if (headers.connection?.toLowerCase() === 'close') this.isReusable = false;
    exchange.head = { status, headers };
    exchange.body = isGood ? exchange.request.into.subarray(0, lengthBytes) : Buffer.alloc(lengthBytes);
    const rest = came.subarray(end + HEAD_END.length);
    if (rest.length > lengthBytes) throw new UnusualAnswer(`more than its ${lengthBytes} bytes`);
    exchange.body.set(rest);
    exchange.done = rest.length;
  }

  #endIfWhole({ head, body, done, outcome }: Exchange): void {
    if (head === undefined || done < body.length) return;
    this.#exchange = undefined;
    this.#headBytes = 0;
    const isGood = head.status < 300;
    outcome.resolve({
      ...head,
      readBytes: isGood ? done : 0,
      said: isGood ? '' : Buffer.from(body).toString('utf8'),
    });
  }

  #fail(error: unknown): void {
    this.destroy();
    this.#exchange?.outcome.reject(error);
    this.#exchange = undefined;
  }
}

const ended = (): Error => Object.assign(new Error('the connection ended'), { code: 'ECONNRESET' });

function parseHead(head: string): { status: number; headers: IncomingHttpHeaders } {
  const [first = '', ...lines] = head.split('\r\n');
  const status = Number(/^HTTP\/1\.1 (\d{3})(?: |$)/.exec(first)?.[1]);
  if (!Number.isInteger(status)) throw new UnusualAnswer(`it begins with ${JSON.stringify(first.slice(0, 40))}`);
  const headers: IncomingHttpHeaders = {};
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon <= 0) throw new UnusualAnswer('a header without a name');
    headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
  }
  return { status, headers };
}
