import type { ChainFile } from '../copier/contract.ts';
import { openChain } from '../copier/restore-plan.ts';
import type { ServedDisk } from '../nbd/server.ts';
import type { AllocationExtent, ReadPart } from '../nbd/server-replies.ts';
import { ChainMap, WINDOW_BYTES, type Stretch } from '../qcow2/chain-map.ts';
import { ReadAhead, type Ahead } from './read-ahead.ts';
import type { ServedFile, StoredBytesReader } from './stored-bytes.ts';

/** Maps of windows that are kept. One of a disk full of compressed clusters of 64 KiB has about 1 MB. */
const KEPT_WINDOWS = 16;
/** Extents in one answer; a client asks again for the rest. */
const MAX_EXTENTS = 4096;

/**
 * One disk of a backup as its guest had it: what the files of the chain hold, decoded, and zeroes where none of them holds
 * anything. Tables are compared with the sums before they are believed, like all that is read.
 * @param reader shared by the disks of a gateway
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export async function openChainDisk(
  { chain, virtualSizeBytes }: { chain: ChainFile[]; virtualSizeBytes: number },
  reader: StoredBytesReader,
  { readAheadBytes, signal }: { readAheadBytes: number; signal: AbortSignal },
): Promise<ServedDisk & AsyncDisposable> {
  const opened = await openChain({ chain, virtualSizeBytes, signal });
  const map = new ChainMap(opened.readers, opened.naming);
  const files = opened.readers.map(({ header }, index): ServedFile => {
    const file = chain[index];
    if (file === undefined) throw new RangeError(`no file ${index} in the chain`);
    return { file, clusterBytes: header.clusterBytes, compression: header.compression };
  });
  const windows = new Map<number, Promise<Stretch[]>>();
  const readAhead = new ReadAhead(readAheadBytes);

  return {
    sizeBytes: virtualSizeBytes,
    async read(offset, lengthBytes) {
      const ahead = readAhead.note(offset, lengthBytes);
      const end = offset + lengthBytes;
      const pieces: (number | Promise<Uint8Array[]>)[] = [];
      let at = offset;
      for await (const stretch of stretchesFrom(offset)) {
        const from = Math.max(stretch.guestOffset, at);
        if (from >= end) break;
        const to = Math.min(stretch.guestOffset + stretch.lengthBytes, end);
        if (from > at) pieces.push(from - at);
        const piece = bytesOf(stretch, from - stretch.guestOffset, to - from);
        piece.catch(() => undefined); // awaited below, perhaps after another has failed
        pieces.push(piece);
        at = to;
        if (at === end) break;
      }
      if (at < end) pieces.push(end - at);
      // What fails here fails again for the read that wants it, and is told then.
      if (ahead !== undefined) fetch(ahead).catch(() => undefined);
      const parts: ReadPart[] = [];
      for (const piece of pieces) {
        if (typeof piece === 'number') parts.push(piece);
        else parts.push(...(await piece));
      }
      return parts;
    },
    async extents(offset, lengthBytes) {
      const extents: AllocationExtent[] = [];
      const end = offset + lengthBytes;
      let at = offset;
      const add = (to: number, isZero: boolean): void => {
        const last = extents.at(-1);
        if (last?.isZero === isZero) last.lengthBytes += to - at;
        else extents.push({ lengthBytes: to - at, isZero });
        at = to;
      };
      for await (const stretch of stretchesFrom(offset)) {
        const from = Math.max(stretch.guestOffset, at);
        if (from >= end || extents.length >= MAX_EXTENTS) break;
        if (from > at) add(from, true);
        add(Math.min(stretch.guestOffset + stretch.lengthBytes, end), false);
        if (at === end) break;
      }
      if (at < end && extents.length < MAX_EXTENTS) add(end, true);
      return extents;
    },
    [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
  };

  /** What is stored from `offset` on, in guest order, to the end of the disk. */
  async function* stretchesFrom(offset: number): AsyncGenerator<Stretch> {
    for (let start = offset - (offset % WINDOW_BYTES); start < virtualSizeBytes; start += WINDOW_BYTES) {
      if (!map.hasTables(start)) continue;
      const stretches = await windowAt(start);
      for (let index = firstAfter(stretches, offset); index < stretches.length; index += 1) {
        const stretch = stretches[index];
        if (stretch !== undefined) yield stretch;
      }
    }
  }

  function windowAt(start: number): Promise<Stretch[]> {
    let window = windows.get(start);
    windows.delete(start);
    if (window === undefined) {
      window = map.window(start);
      window.catch(() => windows.delete(start)); // tried again by the next read
    }
    windows.set(start, window);
    const [oldest] = windows.keys();
    if (windows.size > KEPT_WINDOWS && oldest !== undefined) windows.delete(oldest);
    return window;
  }

  async function bytesOf(stretch: Stretch, inner: number, lengthBytes: number): Promise<Uint8Array[]> {
    const served = files[stretch.file];
    if (served === undefined) throw new RangeError(`no file ${stretch.file} in the chain`);
    if (stretch.kind === 'plain') return await reader.plain(served, stretch.hostOffset + inner, lengthBytes);
    const from = stretch.innerOffset + inner;
    return [(await reader.cluster(served, stretch)).subarray(from, from + lengthBytes)];
  }

  /** Brings into memory what will be asked for. */
  async function fetch({ from, dataBytes, fetched }: Ahead): Promise<void> {
    const pieces: Promise<unknown>[] = [];
    let leftBytes = dataBytes;
    let end = from;
    try {
      for await (const stretch of stretchesFrom(from)) {
        const inner = Math.max(0, from - stretch.guestOffset);
        const lengthBytes = Math.min(stretch.lengthBytes - inner, leftBytes);
        pieces.push(bytesOf(stretch, inner, lengthBytes));
        leftBytes -= lengthBytes;
        end = stretch.guestOffset + inner + lengthBytes;
        if (leftBytes <= 0) break;
      }
      if (leftBytes > 0) end = virtualSizeBytes;
    } finally {
      fetched(end, dataBytes - leftBytes);
      await Promise.allSettled(pieces);
    }
  }
}

/** Index of the first stretch that ends after `offset`. */
function firstAfter(stretches: readonly Stretch[], offset: number): number {
  let low = 0;
  let high = stretches.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const stretch = stretches[middle];
    if (stretch !== undefined && stretch.guestOffset + stretch.lengthBytes <= offset) low = middle + 1;
    else high = middle;
  }
  return low;
}
