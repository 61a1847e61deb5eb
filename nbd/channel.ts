import { connect, type Socket } from 'node:net';
import { NbdConnectionLost } from './errors.ts';

/** Where an NBD server listens. */
export type NbdAddress = { socketPath: string } | { host: string; port: number };

export const describeAddress = (address: NbdAddress): string =>
  'socketPath' in address ? address.socketPath : `${address.host}:${address.port}`;

/** Takes bytes off a socket. The socket reads straight into `target()`, so a payload lands where it belongs. */
export interface Receiver {
  /** Where the next bytes belong; never empty. */
  target(): Uint8Array;
  /** `count` bytes have arrived at the start of what `target` returned last. What it throws ends the connection. */
  advance(count: number): void;
  /** No more bytes will come. */
  lost(error: Error): void;
}

/** A connected socket whose bytes go to one receiver at a time. */
export class Channel {
  readonly #socket: Socket;
  #receiver: Receiver;
  /** Given to the socket for its next read, by `#offeredBy`. */
  #offered: Uint8Array;
  #offeredBy: Receiver;
  #ended: Error | undefined;
  #corked = false;

  constructor(address: NbdAddress, receiver: Receiver) {
    this.#receiver = receiver;
    this.#offeredBy = receiver;
    this.#offered = receiver.target();
    const where = 'socketPath' in address ? { path: address.socketPath } : { host: address.host, port: address.port };
    this.#socket = connect({
      ...where,
      noDelay: true,
      onread: {
        buffer: () => this.#offer(),
        callback: (count) => {
          this.#receive(count);
          return true;
        },
      },
    });
    const place = describeAddress(address);
    this.#socket.on('error', (error) =>
      this.end(new NbdConnectionLost(`NBD server ${place}: ${error.message}`, { cause: error })),
    );
    this.#socket.on('end', () => this.end(new NbdConnectionLost(`NBD server ${place} closed the connection`)));
    this.#socket.on('close', () => this.end(new NbdConnectionLost(`NBD connection to ${place} is closed`)));
  }

  /** Set once the connection has ended: why. */
  get ended(): Error | undefined {
    return this.#ended;
  }

  /** From now on bytes go to `receiver`. */
  attach(receiver: Receiver): void {
    this.#receiver = receiver;
    if (this.#ended) receiver.lost(this.#ended);
  }

  /** Queues bytes; those of one turn of the event loop leave in one system call. */
  write(bytes: Uint8Array): void {
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => {
        this.#corked = false;
        this.#socket.uncork();
      });
    }
    this.#socket.write(bytes);
  }

  /** Ends the connection at once: no buffer is written to any more when this returns. */
  end(error: Error): void {
    if (this.#ended) return;
    this.#ended = error;
    this.#socket.destroy();
    this.#receiver.lost(error);
  }

  /** Sends what is queued and resolves when the socket is closed, after at most `timeoutMs`. */
  async close(lastWords: Uint8Array | undefined, timeoutMs = 1000): Promise<void> {
    if (this.#socket.closed) return;
    const closed = new Promise<void>((resolve) => this.#socket.once('close', () => resolve()));
    if (!this.#ended) {
      const timer = setTimeout(() => this.#socket.destroy(), timeoutMs);
      this.#socket.once('close', () => clearTimeout(timer));
      if (lastWords) this.#socket.write(lastWords);
      this.#socket.end();
    }
    await closed;
  }

  #offer(): Uint8Array {
    this.#offeredBy = this.#receiver;
    return (this.#offered = this.#receiver.target());
  }

  #receive(count: number): void {
    if (this.#ended) return;
    try {
      if (this.#offeredBy === this.#receiver) this.#receiver.advance(count);
      else push(this.#receiver, this.#offered.subarray(0, count)); // offered before `attach`
    } catch (error) {
      this.end(error as Error);
    }
  }
}

/** Hands bytes that lie elsewhere to a receiver, as a socket would. */
export function push(receiver: Receiver, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) {
    const target = receiver.target();
    const count = Math.min(target.length, bytes.length - done);
    target.set(bytes.subarray(done, done + count));
    receiver.advance(count);
    done += count;
  }
}

/** Gives bytes out in the pieces the handshake asks for. */
export class ExactReader implements Receiver {
  readonly #scratch = Buffer.allocUnsafe(4096);
  #arrived: Buffer = Buffer.alloc(0);
  #wanted: { count: number; outcome: PromiseWithResolvers<Buffer> } | undefined;
  #lost: Error | undefined;

  /** Bytes that have arrived and were not asked for. */
  get leftOver(): number {
    return this.#arrived.length;
  }

  /** The next `count` bytes. One call at a time. */
  read(count: number): Promise<Buffer> {
    const outcome = Promise.withResolvers<Buffer>();
    this.#wanted = { count, outcome };
    this.#serve();
    return outcome.promise;
  }

  target(): Uint8Array {
    return this.#scratch;
  }

  advance(count: number): void {
    this.#arrived = Buffer.concat([this.#arrived, this.#scratch.subarray(0, count)]);
    this.#serve();
  }

  lost(error: Error): void {
    this.#lost = error;
    this.#serve();
  }

  #serve(): void {
    const wanted = this.#wanted;
    if (!wanted) return;
    if (this.#arrived.length >= wanted.count) {
      this.#wanted = undefined;
      const bytes = this.#arrived.subarray(0, wanted.count);
      this.#arrived = this.#arrived.subarray(wanted.count);
      wanted.outcome.resolve(bytes);
    } else if (this.#lost) {
      this.#wanted = undefined;
      wanted.outcome.reject(this.#lost);
    }
  }
}
