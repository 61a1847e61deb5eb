/** The part of the global that is used: the project's types leave out the DOM, which declares it. */
declare const WebAssembly: {
  Memory: {
    new (size: { initial: number; maximum: number }): { buffer: ArrayBuffer };
    new (size: { initial: number; maximum: number; shared: true }): { buffer: SharedArrayBuffer };
  };
};

/** A page of WebAssembly: memory is given in these. */
export const MEMORY_PAGE_BYTES = 65_536;

/** Memory of `WebAssembly.Memory` is the one kind that Node aligns to a page without native code, as O_DIRECT needs. */
export const pageMemory = (pages: number): ArrayBuffer =>
  new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer;

/** The same, for several threads at once. */
export const sharedPageMemory = (pages: number): SharedArrayBuffer =>
  new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer;
