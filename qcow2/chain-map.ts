import type { Mapping, Qcow2Reader } from './reader.ts';

/** A stretch of the guest's disk and the one place in a chain that holds it. */
export interface Stretch {
  guestOffset: number;
  lengthBytes: number;
  /** Which file of the chain, 0 = base. */
  file: number;
  kind: 'plain' | 'compressed';
  /** Plain: of this stretch's first byte. Compressed: of the cluster's data. */
  hostOffset: number;
  /** Compressed: bytes at `hostOffset`, see `Mapping`; 0 for plain. */
  storedBytes: number;
  /** Compressed: where the stretch starts in the decompressed cluster. */
  innerOffset: number;
}

/** Guest bytes that are looked at at once: a multiple of every cluster size. */
export const WINDOW_BYTES = 512 * 1024 * 1024;
const MAX_GRANULE_BYTES = 65_536;

/** Runs `work` on one file of a chain, so that a failure can name it. */
type Wrap = <T>(file: number, work: () => Promise<T>) => Promise<T>;

/**
 * What a guest reads through a chain, in guest order; what is not mentioned reads as zeroes. Stretches end where
 * another file takes over. Windows of the disk that no file has tables for cost nothing; memory is that of the tables of one window of 512 MiB.
 * @param chain base first; the last one's size is the disk's
 * @throws Qcow2Error, with the index of the file through `wrap`
 */
export async function* chainMap(
  chain: readonly Qcow2Reader[],
  wrap: Wrap = (_, work) => work(),
): AsyncGenerator<Stretch[]> {
  const map = new ChainMap(chain, wrap);
  for (let start = 0; start < map.virtualSizeBytes; start += WINDOW_BYTES) {
    if (map.hasTables(start)) yield await map.window(start);
  }
}

/** The same, for one window of `WINDOW_BYTES` at a time. */
export class ChainMap {
  readonly virtualSizeBytes: number;
  readonly #chain: readonly Qcow2Reader[];
  readonly #wrap: Wrap;
  readonly #granule: number;
  readonly #limits: readonly number[];

  constructor(chain: readonly Qcow2Reader[], wrap: Wrap = (_, work) => work()) {
    const top = chain.at(-1);
    if (!top || chain.length >= 0xffff) throw new RangeError(`a chain of ${chain.length} files`);
    this.virtualSizeBytes = top.header.virtualSizeBytes;
    this.#chain = chain;
    this.#wrap = wrap;
    this.#granule = Math.min(MAX_GRANULE_BYTES, ...chain.map(({ header }) => header.clusterBytes));
    this.#limits = visibleSizes(chain);
  }

  /** Whether any file knows of anything in the window that begins at `start`. */
  hasTables(start: number): boolean {
    return this.#chain.some((image) => image.hasTables(start, start + WINDOW_BYTES));
  }

  /** What is to be read in the window that begins at `start`, a multiple of `WINDOW_BYTES`; in guest order. */
  async window(start: number): Promise<Stretch[]> {
    const end = start + WINDOW_BYTES;
    const granule = this.#granule;
    const owners = new Uint16Array(WINDOW_BYTES / granule); // 0: zeroes, else index of the file + 1
    const layers = await Promise.all(
      this.#chain.map(async (image, file) =>
        image.hasTables(start, end) ? await this.#wrap(file, () => image.mappings(start, end)) : [],
      ),
    );
    for (const [file, mappings] of layers.entries()) {
      for (const { guestOffset, lengthBytes, kind } of mappings) {
        const first = (guestOffset - start) / granule;
        owners.fill(kind === 'zero' ? 0 : file + 1, first, first + lengthBytes / granule);
      }
    }
    const stretches: Stretch[] = [];
    for (const [file, mappings] of layers.entries()) {
      const owner = file + 1;
      const limit = this.#limits[file] ?? 0;
      for (const mapping of mappings) {
        if (mapping.kind === 'zero') continue;
        const last = (mapping.guestOffset + mapping.lengthBytes - start) / granule;
        let at = (mapping.guestOffset - start) / granule;
        while (at < last) {
          while (at < last && owners[at] !== owner) at += 1;
          const from = start + at * granule;
          while (at < last && owners[at] === owner) at += 1;
          const to = Math.min(start + at * granule, limit);
          if (to > from) stretches.push(stretchOf(mapping, file, from, to - from));
        }
      }
    }
    return stretches.sort((a, b) => a.guestOffset - b.guestOffset);
  }
}

/** The part of a file that can be seen: a disk that was smaller for a while reads as zeroes past its former end. */
const visibleSizes = (chain: readonly Qcow2Reader[]): number[] =>
  chain.map((_, file) => Math.min(...chain.slice(file).map(({ header }) => header.virtualSizeBytes)));

function stretchOf(mapping: Mapping, file: number, guestOffset: number, lengthBytes: number): Stretch {
  const inside = guestOffset - mapping.guestOffset;
  const isPlain = mapping.kind === 'plain';
  return {
    guestOffset,
    lengthBytes,
    file,
    kind: isPlain ? 'plain' : 'compressed',
    hostOffset: mapping.hostOffset + (isPlain ? inside : 0),
    storedBytes: isPlain ? 0 : mapping.storedBytes,
    innerOffset: isPlain ? 0 : inside,
  };
}
