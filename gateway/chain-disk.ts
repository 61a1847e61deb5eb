import { isRemote, openStored } from '../copier/chain-source.ts';
import type { ChainFile } from '../copier/contract.ts';
import { openChain } from '../copier/restore-plan.ts';
import type { ServedDisk } from '../nbd/server.ts';
import type { AllocationExtent, ReadPart } from '../nbd/server-replies.ts';
import type { BlobSource } from '../repository/blob-store.ts';
import { ChainMap, WINDOW_BYTES } from '../qcow2/chain-map.ts';
import type { PortionReader } from './portion-reader.ts';
import type { Lent } from './portion-cache.ts';
import { planPortions, type Portion, type PortionStretch, type ServedFile } from './portions.ts';
import { ReadAhead, type Ahead } from './read-ahead.ts';
import { keepingSource, type KeptSegments } from './segment-folder.ts';

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
  reader: PortionReader,
  options: { readAheadBytes: number; kept: KeptSegments | undefined; signal: AbortSignal },
): Promise<ServedDisk & AsyncDisposable> {
  const { readAheadBytes, kept, signal } = options;
  const openFile = async ({ source, segments }: ChainFile): Promise<BlobSource> => {
    const stored = await openStored(source);
    return kept === undefined || !isRemote(source)
      ? stored
      : keepingSource(() => Promise.resolve(stored), segments, kept, true);
  };
  const opened = await openChain({ chain, virtualSizeBytes, openFile, signal });
  const map = new ChainMap(opened.readers, opened.naming);
  const files = opened.readers.map(({ header }, index): ServedFile => {
    const file = chain[index];
    if (file === undefined) throw new RangeError(`no file ${index} in the chain`);
    return { file, clusterBytes: header.clusterBytes, compression: header.compression };
  });
  const windows = new Map<number, Promise<PortionStretch[]>>();
  const readAhead = new ReadAhead(readAheadBytes);

  return {
    sizeBytes: virtualSizeBytes,
    async read(offset, lengthBytes) {
      const { ahead, isLong } = readAhead.note(offset, lengthBytes);
      const end = offset + lengthBytes;
      const parts: Promise<ReadPart>[] = [];
      const borrowed = new Map<Portion, Promise<Lent>>();
      const borrow = (portion: Portion): Promise<Lent> => {
        let lending = borrowed.get(portion);
        if (lending === undefined) {
          lending = reader.borrow(portion, { isKept: !isLong });
          borrowed.set(portion, lending);
        }
        return lending;
      };
      let at = offset;
      try {
        for await (const stretch of stretchesFrom(offset)) {
          const from = Math.max(stretch.guestOffset, at);
          if (from >= end) break;
          const to = Math.min(stretch.guestOffset + stretch.lengthBytes, end);
          if (from > at) parts.push(Promise.resolve(from - at));
          const inner = stretch.at + from - stretch.guestOffset;
          const part = borrow(stretch.portion).then(({ bytes }) => bytes.subarray(inner, inner + to - from));
          part.catch(() => undefined); // awaited below, perhaps after another has failed
          parts.push(part);
          at = to;
          if (at === end) break;
        }
        if (at < end) parts.push(Promise.resolve(end - at));
        // What fails here fails again for the read that wants it, and is told then.
        if (ahead !== undefined) fetch(ahead, !isLong).catch(() => undefined);
        return { parts: await Promise.all(parts), release };
      } catch (error) {
        release();
        throw error;
      }

      function release(): void {
        for (const lending of borrowed.values()) {
          lending.then(
            (loan) => loan.release(),
            () => undefined, // nothing was lent
          );
        }
      }
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
  async function* stretchesFrom(offset: number): AsyncGenerator<PortionStretch> {
    for (let start = offset - (offset % WINDOW_BYTES); start < virtualSizeBytes; start += WINDOW_BYTES) {
      if (!map.hasTables(start)) continue;
      const stretches = await windowAt(start);
      for (let index = firstAfter(stretches, offset); index < stretches.length; index += 1) {
        const stretch = stretches[index];
        if (stretch !== undefined) yield stretch;
      }
    }
  }

  function windowAt(start: number): Promise<PortionStretch[]> {
    let window = windows.get(start);
    windows.delete(start);
    if (window === undefined) {
      window = map.window(start).then((stretches) => planPortions(stretches, files));
      window.catch(() => windows.delete(start)); // tried again by the next read
    }
    windows.set(start, window);
    const [oldest] = windows.keys();
    if (windows.size > KEPT_WINDOWS && oldest !== undefined) windows.delete(oldest);
    return window;
  }

  /** Brings into memory what will be asked for. */
  async function fetch({ from, dataBytes, fetched }: Ahead, isKept: boolean): Promise<void> {
    const portions = new Set<Portion>();
    let leftBytes = dataBytes;
    let end = from;
    try {
      for await (const stretch of stretchesFrom(from)) {
        const inner = Math.max(0, from - stretch.guestOffset);
        const lengthBytes = Math.min(stretch.lengthBytes - inner, leftBytes);
        portions.add(stretch.portion);
        leftBytes -= lengthBytes;
        end = stretch.guestOffset + inner + lengthBytes;
        if (leftBytes <= 0) break;
      }
      if (leftBytes > 0) end = virtualSizeBytes;
    } finally {
      fetched(end, dataBytes - leftBytes);
      await Promise.allSettled(
        [...portions].map(async (portion) => (await reader.borrow(portion, { isKept })).release()),
      );
    }
  }
}

/** Index of the first stretch that ends after `offset`. */
function firstAfter(stretches: readonly PortionStretch[], offset: number): number {
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
