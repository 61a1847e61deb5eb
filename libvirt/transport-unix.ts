import { once } from 'node:events';
import { createConnection } from 'node:net';
import type { Duplex } from 'node:stream';
import { LibvirtConnectionLost, LibvirtRefused } from './errors.ts';
import type { Transport } from './transport.ts';

/** Streams to a daemon on this machine. */
export class UnixTransport implements Transport {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async open(signal: AbortSignal): Promise<Duplex> {
    const socket = createConnection(this.#path);
    try {
      await once(socket, 'connect', { signal });
      return socket;
    } catch (error) {
      socket.destroy();
      signal.throwIfAborted();
      const code = (error as NodeJS.ErrnoException).code;
      if (code === 'EACCES' || code === 'EPERM') {
        throw new LibvirtRefused(
          `no permission for ${this.#path}: run as root, or as a user of the group the socket belongs to`,
          { cause: error },
        );
      }
      const isAbsent = code === 'ENOENT' || code === 'ECONNREFUSED';
      const why = isAbsent ? 'nobody listens there: libvirtd is not running, or its socket is elsewhere' : code;
      throw new LibvirtConnectionLost(`cannot connect to libvirt at ${this.#path}: ${why}`, {
        cause: error,
        sent: false,
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
