import type { ChangeMap } from './change-map.ts';
import type { SegmentSum } from './contract.ts';
import { SEGMENT_BYTES } from './thread-task.ts';

const SHA256_BYTES = 32;

/** Where the segments of a copy lie. Takes about 4 bytes per cluster read and 48 per segment. */
export class StoredSegments {
  readonly #clusterBytes: number;
  readonly #clustersPerSegment: number;
  /** Per data cluster of the disk: see place-clusters.ts. */
  readonly #sizes: Uint32Array;
  readonly #offsets: Float64Array;
  readonly #lengths: Uint32Array;
  readonly #sums: Buffer;
  readonly #isStored: Uint8Array;
  /** Segments stored. */
  count = 0;
  storedBytes = 0;
  hasCompressed = false;

  constructor(map: ChangeMap, segments: number) {
    this.#clusterBytes = map.clusterBytes;
    this.#clustersPerSegment = SEGMENT_BYTES / map.clusterBytes;
    this.#sizes = new Uint32Array(map.dataClusters);
    this.#offsets = new Float64Array(segments);
    this.#lengths = new Uint32Array(segments);
    this.#sums = Buffer.alloc(segments * SHA256_BYTES);
    this.#isStored = new Uint8Array(segments);
  }

  set(segment: { index: number; offset: number; lengthBytes: number; sha256: Buffer; sizes: Uint32Array }): void {
    const { index, offset, lengthBytes, sha256, sizes } = segment;
    this.#sizes.set(sizes, index * this.#clustersPerSegment);
    this.#offsets[index] = offset;
    this.#lengths[index] = lengthBytes;
    sha256.copy(this.#sums, index * SHA256_BYTES);
    if (this.has(index)) throw new Error(`segment ${index} is stored twice`);
    this.#isStored[index] = 1;
    this.count++;
    this.storedBytes += lengthBytes;
    this.hasCompressed ||= sizes.some((size) => size !== 0 && size !== this.#clusterBytes);
  }

  has(index: number): boolean {
    return this.#isStored[index] === 1;
  }

  get(index: number): { offset: number; sizes: Uint32Array } {
    if (!this.has(index)) throw new Error(`segment ${index} is not stored`);
    const first = index * this.#clustersPerSegment;
    return { offset: this.#offsets[index] ?? 0, sizes: this.#sizes.subarray(first, first + this.#clustersPerSegment) };
  }

  /** Where there are bytes, in no order. */
  places(): { offset: number; lengthBytes: number }[] {
    return this.sums();
  }

  /** Of the segments that have bytes; in the order of the disk, not of the file. */
  sums(): SegmentSum[] {
    const sums: SegmentSum[] = [];
    for (const [index, lengthBytes] of this.#lengths.entries()) {
      if (lengthBytes === 0) continue;
      const sha256 = this.#sums.toString('hex', index * SHA256_BYTES, (index + 1) * SHA256_BYTES);
      sums.push({ offset: this.#offsets[index] ?? 0, lengthBytes, sha256 });
    }
    return sums;
  }
}
