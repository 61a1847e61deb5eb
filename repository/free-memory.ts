/**
 * Gives back at once what a cipher, a decompressor or a socket allocated for its result: the next one gets the same memory, while it is
 * still in the processor's cache. Left to the collector, such results went through fresh memory all the time, and the collector
 * through the heap. The bytes must not be used any more, by anybody.
 */
export function freeMemory({ buffer, length }: Buffer): void {
  if (length >= Buffer.poolSize) (buffer as ArrayBuffer).transfer(0); // a smaller one may share its memory with others
}
