import { placeClusters, WRITE_ALIGNMENT, type ClusterSizes, type Placement } from './place-clusters.ts';

/** Gives out places in the file of one copy, from front to back; what an interrupted attempt left open is used first. */
export class FileSpace {
  readonly #clusterBytes: number;
  readonly #alignBytes: number;
  /** Stretches below `#end` that nothing lies in, in order. */
  #gaps: { offset: number; lengthBytes: number }[] = [];
  #end: number;

  /** @param taken stretches that hold segments already; the first cluster is kept for the header */
  constructor(
    clusterBytes: number,
    taken: { offset: number; lengthBytes: number }[] = [],
    alignBytes: number = WRITE_ALIGNMENT,
  ) {
    this.#clusterBytes = clusterBytes;
    this.#alignBytes = alignBytes;
    this.#end = clusterBytes;
    for (const { offset, lengthBytes } of taken.toSorted((a, b) => a.offset - b.offset)) {
      if (offset > this.#end) this.#gaps.push({ offset: this.#end, lengthBytes: offset - this.#end });
      this.#end = Math.max(this.#end, offset + lengthBytes);
    }
  }

  /** Where the next byte behind everything would go. */
  get end(): number {
    return this.#end;
  }

  /** Stretches that stayed empty, to be filled with zeroes: a blob has no holes. */
  get gaps(): readonly { offset: number; lengthBytes: number }[] {
    return this.#gaps;
  }

  /** Places a segment. */
  place(sizes: ClusterSizes): { offset: number } & Placement {
    for (const [index, gap] of this.#gaps.entries()) {
      const placement = placeClusters(gap.offset, sizes, this.#clusterBytes, this.#alignBytes);
      if (placement.lengthBytes > gap.lengthBytes) continue;
      const rest = { offset: gap.offset + placement.lengthBytes, lengthBytes: gap.lengthBytes - placement.lengthBytes };
      this.#gaps = this.#gaps.toSpliced(index, 1, ...(rest.lengthBytes > 0 ? [rest] : []));
      return { offset: gap.offset, ...placement };
    }
    const offset = this.#end;
    const placement = placeClusters(offset, sizes, this.#clusterBytes, this.#alignBytes);
    this.#end += placement.lengthBytes;
    return { offset, ...placement };
  }

  /** Ends the data at a cluster boundary, where the tables may start. */
  align(): number {
    const aligned = Math.ceil(this.#end / this.#clusterBytes) * this.#clusterBytes;
    if (aligned > this.#end) this.#gaps.push({ offset: this.#end, lengthBytes: aligned - this.#end });
    this.#end = aligned;
    return aligned;
  }
}
