/**
 * Bytes that were made with some effort, up to a bound; those that were asked for longest ago go first. Each is made once,
 * however many ask for it at a time; what failed is tried again by whoever asks next.
 */
export class ByteCache {
  readonly #maxBytes: number;
  /** Newest last. */
  readonly #kept = new Map<string, Uint8Array>();
  readonly #making = new Map<string, Promise<Uint8Array>>();
  /** How many of what is kept lie in a memory: all of it stays as long as one of them does. */
  readonly #memories = new Map<ArrayBufferLike, number>();
  #keptBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  get keptBytes(): number {
    return this.#keptBytes;
  }

  get(key: string, make: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const kept = this.#kept.get(key);
    if (kept !== undefined) {
      this.#kept.delete(key);
      this.#kept.set(key, kept);
      return Promise.resolve(kept);
    }
    const waiting = this.#making.get(key);
    if (waiting !== undefined) return waiting;
    const making = make()
      .then((bytes) => {
        this.#keep(key, bytes);
        return bytes;
      })
      .finally(() => this.#making.delete(key));
    this.#making.set(key, making);
    return making;
  }

  #keep(key: string, bytes: Uint8Array): void {
    this.#kept.set(key, bytes);
    const sharers = this.#memories.get(bytes.buffer) ?? 0;
    this.#memories.set(bytes.buffer, sharers + 1);
    if (sharers === 0) this.#keptBytes += bytes.buffer.byteLength;
    for (const [oldest, { buffer }] of this.#kept) {
      if (this.#keptBytes <= this.#maxBytes) break;
      this.#kept.delete(oldest);
      this.#release(buffer);
    }
  }

  #release(memory: ArrayBufferLike): void {
    const sharers = (this.#memories.get(memory) ?? 0) - 1;
    if (sharers > 0) {
      this.#memories.set(memory, sharers);
    } else {
      this.#memories.delete(memory);
      this.#keptBytes -= memory.byteLength;
    }
  }
}
