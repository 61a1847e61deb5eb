/** The part of the global that is used: the project's types leave out the DOM, which declares it. */
declare const WebAssembly: { Memory: new (size: { initial: number; maximum: number }) => { buffer: ArrayBuffer } };

const PAGE_BYTES = 65_536;
/** Free memories of this thread, by size in pages of WebAssembly. */
const free = new Map<number, ArrayBuffer[]>();

/** The buffers of one task. Their memory goes from task to task: none is allocated or cleared per segment. */
export class TaskBuffers {
  readonly #taken: ArrayBuffer[] = [];

  /**
   * Memory of `WebAssembly.Memory` is the one kind that Node aligns to a page without native code, as O_DIRECT needs.
   * Its size is rounded up to 64 KiB. Contents are undefined.
   */
  take(sizeBytes: number): Buffer {
    const pages = Math.max(1, Math.ceil(sizeBytes / PAGE_BYTES));
    const memory = free.get(pages)?.pop() ?? newMemory(pages);
    this.#taken.push(memory);
    return Buffer.from(memory, 0, sizeBytes);
  }

  giveBack(): void {
    for (const memory of this.#taken.splice(0)) {
      const pages = memory.byteLength / PAGE_BYTES;
      const others = free.get(pages);
      if (others) others.push(memory);
      else free.set(pages, [memory]);
    }
  }
}

function newMemory(pages: number): ArrayBuffer {
  return new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer;
}
