import type { MappedCluster } from '../qcow2/tables.ts';
import { placeClusters, type ClusterSizes } from './place-clusters.ts';

const WORDS_PER_KEY = 2;

/** Where the clusters of a rewritten file lie. They come in any order; 20 bytes for each. */
export class RewrittenClusters {
  readonly #clusterBytes: number;
  /** Pairs of ordinal and number on the disk: as 64-bit numbers they sort by the disk. Little-endian, like every host of KVM's that we run on. */
  #keys = new Uint32Array(1024 * WORDS_PER_KEY);
  #offsets = new Float64Array(1024);
  #sizes = new Uint32Array(1024);
  count = 0;
  hasCompressed = false;

  constructor(clusterBytes: number) {
    this.#clusterBytes = clusterBytes;
  }

  add(guests: Uint32Array, { offset, sizes }: { offset: number; sizes: ClusterSizes }): void {
    const { offsets } = placeClusters(offset, sizes, this.#clusterBytes);
    while (this.count + guests.length > this.#sizes.length) this.#grow();
    for (const [index, guest] of guests.entries()) {
      const size = sizes[index] ?? 0;
      this.#keys[this.count * WORDS_PER_KEY] = this.count;
      this.#keys[this.count * WORDS_PER_KEY + 1] = guest;
      this.#offsets[this.count] = offsets[index] ?? 0;
      this.#sizes[this.count] = size;
      this.hasCompressed ||= size !== 0 && size !== this.#clusterBytes;
      this.count += 1;
    }
  }

  /**
   * What the image says of each, in the order of the disk.
   * @param zeroRuns first cluster and count of runs that are explicitly zero, in order; undefined where zeroes need no word,
   *   because nothing lies beneath
   */
  *mapped(zeroRuns: readonly number[] | undefined): Generator<MappedCluster> {
    const keys = this.#keys.slice(0, this.count * WORDS_PER_KEY);
    new BigUint64Array(keys.buffer).sort();
    let run = 0;
    for (let at = 0; at < keys.length; at += WORDS_PER_KEY) {
      const ordinal = keys[at] ?? 0;
      const guest = keys[at + 1] ?? 0;
      for (; zeroRuns && (zeroRuns[run] ?? Infinity) < guest; run += 2) yield zeroRun(zeroRuns, run);
      const size = this.#sizes[ordinal] ?? 0;
      const offset = this.#offsets[ordinal] ?? 0;
      if (size === this.#clusterBytes) yield { kind: 'plain', guest, offset };
      else if (size > 0) yield { kind: 'compressed', guest, offset, storedBytes: size };
      else if (zeroRuns) yield { kind: 'zero', guest, count: 1 };
    }
    for (; zeroRuns && run < zeroRuns.length; run += 2) yield zeroRun(zeroRuns, run);
  }

  #grow(): void {
    const sizes = new Uint32Array(this.#sizes.length * 2);
    const offsets = new Float64Array(sizes.length);
    const keys = new Uint32Array(sizes.length * WORDS_PER_KEY);
    sizes.set(this.#sizes);
    offsets.set(this.#offsets);
    keys.set(this.#keys);
    this.#sizes = sizes;
    this.#offsets = offsets;
    this.#keys = keys;
  }
}

const zeroRun = (runs: readonly number[], at: number): MappedCluster => ({
  kind: 'zero',
  guest: runs[at] ?? 0,
  count: runs[at + 1] ?? 0,
});
