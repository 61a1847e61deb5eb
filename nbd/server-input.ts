import type { Socket } from 'node:net';
import { NbdConnectionLost } from './errors.ts';

/** More than this is left in the socket until it is asked for. */
const MAX_BUFFERED_BYTES = 256 * 1024;

/** Bytes of a client, in the order they came. One reader at a time. */
export class ClientInput {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #bufferedBytes = 0;
  #isOver = false;
  #wake: () => void = () => undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#bufferedBytes += chunk.length;
      if (this.#bufferedBytes > MAX_BUFFERED_BYTES) socket.pause();
      this.#wake();
    });
    for (const event of ['end', 'close'] as const) {
      socket.on(event, () => {
        this.#isOver = true;
        this.#wake();
      });
    }
  }

  /** Exactly so many bytes. @throws NbdConnectionLost when the client goes before it has sent them */
  async read(lengthBytes: number): Promise<Buffer> {
    while (this.#bufferedBytes < lengthBytes) {
      if (this.#isOver) throw new NbdConnectionLost('the NBD client has gone');
      const woken = new Promise<void>((resolve) => (this.#wake = resolve));
      this.#socket.resume();
      await woken;
    }
    const [first, ...rest] = this.#chunks;
    const all = first !== undefined && first.length >= lengthBytes ? first : Buffer.concat(this.#chunks);
    const left = all.subarray(lengthBytes);
    this.#chunks = [...(left.length > 0 ? [left] : []), ...(all === first ? rest : [])];
    this.#bufferedBytes -= lengthBytes;
    return all.subarray(0, lengthBytes);
  }

  async skip(lengthBytes: number): Promise<void> {
    for (let left = lengthBytes; left > 0; left -= MAX_BUFFERED_BYTES) {
      await this.read(Math.min(left, MAX_BUFFERED_BYTES));
    }
  }
}
