const MIB = 1024 * 1024;

/** With four disks at once, each at its two buffers of 9.3 MiB at least, a worker stays under 400 MB. */
const BUDGET_BYTES = 112 * MIB;
/** The first part, which is kept to the end, and one that is filled and stored: with these a copy always comes to its end. */
const ALWAYS_GRANTED = 2;

interface Waiting {
  owner: BufferShare;
  sizeBytes: number;
  granted: PromiseWithResolvers<SharedArrayBuffer>;
}

/**
 * Memory for parts on their way to a bucket, shared by all copies of a process: what is in flight is bounded by it, however
 * many disks are copied. A copy waits for memory only while it holds two buffers or more, so none waits for another's.
 */
export class PartBuffers {
  readonly #budgetBytes: number;
  #usedBytes = 0;
  readonly #free: SharedArrayBuffer[] = [];
  readonly #waiting: Waiting[] = [];

  constructor(budgetBytes = BUDGET_BYTES) {
    this.#budgetBytes = budgetBytes;
  }

  /** What one copy takes and gives back. */
  share(): BufferShare {
    return new BufferShare(this);
  }

  /** Memory of at least `sizeBytes`, contents undefined. @throws the signal's reason */
  async take(owner: BufferShare, sizeBytes: number, signal: AbortSignal): Promise<SharedArrayBuffer> {
    signal.throwIfAborted();
    const granted = Promise.withResolvers<SharedArrayBuffer>();
    const waiting = { owner, sizeBytes, granted };
    const onAbort = (): void => {
      const index = this.#waiting.indexOf(waiting);
      if (index >= 0) this.#waiting.splice(index, 1);
      granted.reject(signal.reason);
    };
    this.#waiting.push(waiting);
    this.#grant();
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      return await granted.promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  giveBack(buffer: SharedArrayBuffer): void {
    this.#usedBytes -= buffer.byteLength;
    this.#free.push(buffer);
    this.#grant();
  }

  #grant(): void {
    for (let next = 0; ;) {
      const waiting = this.#waiting[next];
      if (!waiting) break;
      const { owner, sizeBytes, granted } = waiting;
      if (owner.held >= ALWAYS_GRANTED && this.#usedBytes + sizeBytes > this.#budgetBytes) {
        next += 1;
        continue;
      }
      this.#waiting.splice(next, 1);
      const fitting = this.#free.findIndex(({ byteLength }) => byteLength === sizeBytes);
      const [kept] = fitting < 0 ? [] : this.#free.splice(fitting, 1);
      const buffer = kept ?? new SharedArrayBuffer(sizeBytes);
      this.#usedBytes += sizeBytes;
      owner.held += 1;
      granted.resolve(buffer);
    }
    let keptBytes = this.#free.reduce((sum, { byteLength }) => sum + byteLength, this.#usedBytes);
    while (keptBytes > this.#budgetBytes && this.#free.length > 0) keptBytes -= this.#free.shift()?.byteLength ?? 0;
  }
}

export class BufferShare implements Disposable {
  readonly #buffers: PartBuffers;
  readonly #taken = new Set<SharedArrayBuffer>();
  /** Buffers that were granted. */
  held = 0;

  constructor(buffers: PartBuffers) {
    this.#buffers = buffers;
  }

  async take(sizeBytes: number, signal: AbortSignal): Promise<SharedArrayBuffer> {
    const buffer = await this.#buffers.take(this, sizeBytes, signal);
    this.#taken.add(buffer);
    return buffer;
  }

  giveBack(buffer: SharedArrayBuffer): void {
    if (!this.#taken.delete(buffer)) throw new Error('memory of a part is given back twice');
    this.held -= 1;
    this.#buffers.giveBack(buffer);
  }

  /** Gives back all; nobody may use it any more. */
  [Symbol.dispose](): void {
    for (const buffer of [...this.#taken]) this.giveBack(buffer);
  }
}
