import { createHash } from 'node:crypto';
import type { NbdExtent } from '../nbd/extents.ts';
import { STATE_DIRTY, STATE_ZERO } from '../nbd/protocol.ts';

export const CLEAN = 0;
/** Changed, and reads as zeroes: stored as a zero cluster, unread. Only in incrementals. */
export const ZERO = 1;
/** To be read and stored. */
export const DATA = 2;
export type ClusterState = typeof CLEAN | typeof ZERO | typeof DATA;

/** Neighbouring clusters of one state. */
export interface ClusterRun {
  first: number;
  count: number;
  state: ClusterState;
}

/** Which clusters of a disk a copy stores. Takes 12 bytes per run of changed clusters, whatever the size of the disk. */
export class ChangeMap {
  readonly clusterBytes: number;
  readonly virtualSizeBytes: number;
  #runs = new Uint32Array(3 * 256);
  #length = 0;
  /** What the server's map calls changed, not rounded to clusters. */
  changedBytes = 0;
  /** Clusters to be read. */
  dataClusters = 0;

  constructor(clusterBytes: number, virtualSizeBytes: number) {
    this.clusterBytes = clusterBytes;
    this.virtualSizeBytes = virtualSizeBytes;
  }

  /** Runs of ZERO and DATA clusters, in the order of the disk. */
  *runs(): Generator<ClusterRun> {
    for (let at = 0; at < this.#length; at += 3) {
      const [first, count, state] = this.#runs.subarray(at, at + 3) as unknown as [number, number, ClusterState];
      yield { first, count, state };
    }
  }

  /** Adds clusters behind all earlier ones. */
  append({ first, count, state }: ClusterRun): void {
    if (state === CLEAN) return;
    if (state === DATA) this.dataClusters += count;
    const last = this.#length - 3;
    if (
      last >= 0 &&
      this.#runs[last + 2] === state &&
      (this.#runs[last] ?? 0) + (this.#runs[last + 1] ?? 0) === first
    ) {
      this.#runs[last + 1] = (this.#runs[last + 1] ?? 0) + count;
      return;
    }
    if (this.#length === this.#runs.length) {
      const larger = new Uint32Array(this.#runs.length * 2);
      larger.set(this.#runs);
      this.#runs = larger;
    }
    this.#runs.set([first, count, state], this.#length);
    this.#length += 3;
  }

  /** Hex SHA-256 of sizes and runs: equal maps make equal segments. */
  sha256(): string {
    return createHash('sha256')
      .update(`${this.virtualSizeBytes} ${this.clusterBytes}\n`)
      .update(this.#runs.subarray(0, this.#length))
      .digest('hex');
  }
}

/** What a context's flags say of an extent, for a full and for an incremental. */
export interface MapReading {
  /** Contexts to ask the server for, in this order. */
  contexts: string[];
  stateOf: (flags: readonly number[]) => ClusterState;
}

/**
 * How to read the map of a copy. `base:allocation` alone makes a full; with a dirty bitmap it tells, besides, which
 * changes are zeroes, so that they need not be read.
 * @param depth for `qemu:allocation-depth`: how many layers, from the top, hold changes
 */
export function readingOf(mapContext: string, depth = 1): MapReading {
  if (mapContext === 'base:allocation') {
    return { contexts: [mapContext], stateOf: ([flags = 0]) => ((flags & STATE_ZERO) !== 0 ? CLEAN : DATA) };
  }
  const isChanged =
    mapContext === 'qemu:allocation-depth'
      ? (flags: number) => flags >= 1 && flags <= depth
      : (flags: number) => (flags & STATE_DIRTY) !== 0;
  return {
    contexts: [mapContext, 'base:allocation'],
    stateOf: ([changed = 0, allocation = 0]) => {
      if (!isChanged(changed)) return CLEAN;
      return (allocation & STATE_ZERO) !== 0 ? ZERO : DATA;
    },
  };
}

/**
 * Rounds extents to clusters. A cluster is ZERO only if all of it is; one that is partly so is read whole.
 * @param extents in the order of the disk, without gap, from 0 to its end
 */
export async function buildChangeMap(
  { clusterBytes, virtualSizeBytes }: { clusterBytes: number; virtualSizeBytes: number },
  extents: AsyncIterable<NbdExtent>,
  stateOf: MapReading['stateOf'],
): Promise<ChangeMap> {
  const map = new ChangeMap(clusterBytes, virtualSizeBytes);
  /** States seen so far, one bit each, in the cluster that the last extent ended in. */
  let seen = 0;
  for await (const { offset, lengthBytes, flags } of extents) {
    const state = stateOf(flags);
    if (state !== CLEAN) map.changedBytes += lengthBytes;
    const end = offset + lengthBytes;
    for (let at = offset; at < end;) {
      const cluster = Math.floor(at / clusterBytes);
      if (at % clusterBytes === 0) {
        const count = Math.floor(end / clusterBytes) - cluster;
        if (count > 0) {
          map.append({ first: cluster, count, state });
          at += count * clusterBytes;
          continue;
        }
        seen = 0;
      }
      seen |= 1 << state;
      const clusterEnd = (cluster + 1) * clusterBytes;
      at = Math.min(end, clusterEnd);
      if (at === clusterEnd || at === virtualSizeBytes)
        map.append({ first: cluster, count: 1, state: stateOfMix(seen) });
    }
  }
  return map;
}

function stateOfMix(seen: number): ClusterState {
  if (seen === 1 << CLEAN) return CLEAN;
  return seen === 1 << ZERO ? ZERO : DATA;
}
