import { ENTRY_BYTES, l1EntriesOf, REFCOUNT_BYTES } from '../qcow2/format.ts';
import type { Qcow2Layout } from '../qcow2/format.ts';
import type { MappedCluster } from '../qcow2/tables.ts';

/** Where the guest's bytes go in the destination file. First all are placed, then all are settled. */
export interface DestinationLayout {
  /** Takes note of a stretch of the guest's disk; stretches come in guest order. Returns its position, for `settle`. */
  place(guestOffset: number, lengthBytes: number): number;
  /**
   * Where a stretch, or part of one, goes in the file: mostly one place, more where stretches share a cluster. What is
   * settled one after the other lies side by side if the format allows it.
   */
  settle(position: number, lengthBytes: number): { offset: number; lengthBytes: number }[];
  /** Bytes that the data will take on the destination's file system. */
  readonly dataBytes: number;
  /** What all else will take, rounded up. */
  tableBytes(shape: Qcow2Layout): number;
  /** Where the data ends in the file. */
  dataEnd(shape: Qcow2Layout): number;
}

/** A raw image: each byte at its guest offset; what is never placed stays a hole. */
export class RawLayout implements DestinationLayout {
  dataBytes = 0;
  place(guestOffset: number, lengthBytes: number): number {
    this.dataBytes += lengthBytes;
    return guestOffset;
  }
  settle(position: number, lengthBytes: number): { offset: number; lengthBytes: number }[] {
    return [{ offset: position, lengthBytes }];
  }
  tableBytes(): number {
    return 0;
  }
  dataEnd({ virtualSizeBytes }: Qcow2Layout): number {
    return virtualSizeBytes;
  }
}

/** Also QEMU's own choice for a new image, and the granularity of its dirty bitmaps: larger would blur increments. */
export const DESTINATION_CLUSTER_BITS = 16;
export const CLUSTER_BYTES = 2 ** DESTINATION_CLUSTER_BITS;

/**
 * A qcow2 image without compression: after the header the clusters that have data, in the order they are settled in. That
 * is the order of the stored segments, so that all that is wanted of a segment goes out in one write. In guest order,
 * an increment's 256 KiB here and there, and the gaps they leave in older segments, made four times as many writes, which
 * took most of a restore's time on a busy disk.
 */
export class PlainQcow2Layout implements DestinationLayout {
  /** Runs of guest clusters with data: first, count, first, count… */
  readonly #runs: number[] = [];
  #clusters = 0;
  /** Of each cluster with data, in guest order: where it lies, counted in clusters from 1; 0: not settled yet. */
  #places: Uint32Array | undefined;
  #lastPlace = 0;

  get dataBytes(): number {
    return this.#clusters * CLUSTER_BYTES;
  }

  /** Where the tables go. */
  get tailOffset(): number {
    return CLUSTER_BYTES + this.dataBytes;
  }

  dataEnd(): number {
    return this.tailOffset;
  }

  place(guestOffset: number, lengthBytes: number): number {
    const first = Math.floor(guestOffset / CLUSTER_BYTES);
    const end = Math.ceil((guestOffset + lengthBytes) / CLUSTER_BYTES);
    const last = this.#runs.length - 2;
    const runEnd = last < 0 ? 0 : (this.#runs[last] ?? 0) + (this.#runs[last + 1] ?? 0);
    // The cluster the last stretch ended in may go on with this one.
    const continues = last >= 0 && first < runEnd;
    const rank = continues ? this.#clusters - (runEnd - first) : this.#clusters;
    const fresh = end - Math.max(first, runEnd);
    if (fresh > 0) {
      if (last >= 0 && first <= runEnd) this.#runs[last + 1] = (this.#runs[last + 1] ?? 0) + fresh;
      else this.#runs.push(first, end - first);
      this.#clusters += fresh;
    }
    return rank * CLUSTER_BYTES + (guestOffset % CLUSTER_BYTES);
  }

  settle(position: number, lengthBytes: number): { offset: number; lengthBytes: number }[] {
    const places = (this.#places ??= new Uint32Array(this.#clusters));
    const parts: { offset: number; lengthBytes: number }[] = [];
    const end = position + lengthBytes;
    for (let at = position; at < end;) {
      const rank = Math.floor(at / CLUSTER_BYTES);
      const place = places[rank] || ++this.#lastPlace;
      places[rank] = place;
      const next = Math.min(end, (rank + 1) * CLUSTER_BYTES);
      const offset = place * CLUSTER_BYTES + (at % CLUSTER_BYTES);
      const before = parts.at(-1);
      if (before && before.offset + before.lengthBytes === offset) before.lengthBytes += next - at;
      else parts.push({ offset, lengthBytes: next - at });
      at = next;
    }
    return parts;
  }

  tableBytes(shape: Qcow2Layout): number {
    const perTable = CLUSTER_BYTES / ENTRY_BYTES;
    let tables = 0;
    let last = -1;
    for (let run = 0; run < this.#runs.length; run += 2) {
      const first = this.#runs[run] ?? 0;
      const from = Math.max(Math.floor(first / perTable), last + 1);
      last = Math.max(last, Math.floor((first + (this.#runs[run + 1] ?? 0) - 1) / perTable));
      tables += Math.max(0, last - from + 1);
    }
    const l1Clusters = Math.ceil((l1EntriesOf(shape) * ENTRY_BYTES) / CLUSTER_BYTES);
    const refcountBlocks =
      1 + Math.ceil(((this.#clusters + tables + l1Clusters) * REFCOUNT_BYTES) / (CLUSTER_BYTES - 64));
    return (2 + tables + l1Clusters + refcountBlocks + Math.ceil(refcountBlocks / perTable)) * CLUSTER_BYTES;
  }

  /** What the L2 tables say, once all is settled. */
  *clusters(): Generator<MappedCluster> {
    let rank = 0;
    for (let run = 0; run < this.#runs.length; run += 2) {
      const first = this.#runs[run] ?? 0;
      const end = first + (this.#runs[run + 1] ?? 0);
      for (let guest = first; guest < end; guest += 1) {
        yield { kind: 'plain', guest, offset: (this.#places?.[rank] ?? 0) * CLUSTER_BYTES };
        rank += 1;
      }
    }
  }
}
