import { MEMORY_PAGE_BYTES, sharedPageMemory } from '../copier/page-memory.ts';

/** What is given out begins and ends at a page of memory, as reads past the page cache want it. */
const UNIT_BYTES = 4096;

interface Stretch {
  at: number;
  lengthBytes: number;
}

/**
 * One memory for all threads, of which stretches are given out and come back: it is never more, and none of it is left to the
 * collector or cleared.
 */
export class SharedRoom {
  readonly #memory: SharedArrayBuffer;
  /** Stretches that are free, in order, none beside another. */
  #free: Stretch[];

  constructor(sizeBytes: number) {
    this.#memory = sharedPageMemory(Math.ceil(sizeBytes / MEMORY_PAGE_BYTES));
    this.#free = [{ at: 0, lengthBytes: this.#memory.byteLength }];
  }

  /** A stretch of exactly that length, contents undefined; undefined when there is none. */
  take(lengthBytes: number): Uint8Array<SharedArrayBuffer> | undefined {
    const units = roundedUp(lengthBytes);
    const index = this.#free.findIndex((stretch) => stretch.lengthBytes >= units);
    const stretch = this.#free[index];
    if (stretch === undefined) return undefined;
    const { at } = stretch;
    if (stretch.lengthBytes === units) this.#free.splice(index, 1);
    else this.#free[index] = { at: at + units, lengthBytes: stretch.lengthBytes - units };
    return new Uint8Array(this.#memory, at, lengthBytes);
  }

  /** Whoever gives it back does not touch it any more. */
  giveBack(bytes: Uint8Array): void {
    const given = { at: bytes.byteOffset, lengthBytes: roundedUp(bytes.length) };
    const next = this.#free.findIndex(({ at }) => at > given.at);
    this.#free.splice(next < 0 ? this.#free.length : next, 0, given);
    const joined: Stretch[] = [];
    for (const stretch of this.#free) {
      const last = joined.at(-1);
      if (last !== undefined && last.at + last.lengthBytes === stretch.at) last.lengthBytes += stretch.lengthBytes;
      else joined.push({ ...stretch });
    }
    this.#free = joined;
  }
}

const roundedUp = (lengthBytes: number): number => Math.max(1, Math.ceil(lengthBytes / UNIT_BYTES)) * UNIT_BYTES;
