import { MEMORY_PAGE_BYTES, pageMemory } from './page-memory.ts';

/** Free memories of this thread, by size in pages of WebAssembly. */
const free = new Map<number, ArrayBuffer[]>();

/** The buffers of one task. Their memory goes from task to task: none is allocated or cleared per segment. */
export class TaskBuffers {
  readonly #taken: ArrayBuffer[] = [];

  /**
   * Aligned to a page; its size is rounded up to 64 KiB. Contents are undefined.
   */
  take(sizeBytes: number): Buffer {
    const pages = Math.max(1, Math.ceil(sizeBytes / MEMORY_PAGE_BYTES));
    const memory = free.get(pages)?.pop() ?? pageMemory(pages);
    this.#taken.push(memory);
    return Buffer.from(memory, 0, sizeBytes);
  }

  giveBack(): void {
    for (const memory of this.#taken.splice(0)) {
      const pages = memory.byteLength / MEMORY_PAGE_BYTES;
      const others = free.get(pages);
      if (others) others.push(memory);
      else free.set(pages, [memory]);
    }
  }
}
