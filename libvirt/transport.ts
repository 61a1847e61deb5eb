import type { Duplex } from 'node:stream';

/** Gives byte streams to one daemon, as many as are asked for. */
export interface Transport extends AsyncDisposable {
  /**
   * A new stream to the daemon's socket.
   * @throws LibvirtConnectionLost, LibvirtRefused
   */
  open(signal: AbortSignal): Promise<Duplex>;
}
