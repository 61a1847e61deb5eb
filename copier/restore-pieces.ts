import type { ChainFile, SegmentSum } from './contract.ts';
import { imageOffset } from './image-segments.ts';
import type { DestinationLayout } from './restore-layout.ts';

/** One piece of a stored file and where it goes. */
export interface Piece {
  /** Of the image: of the bytes themselves, or of the compressed cluster that holds them. */
  hostOffset: number;
  /** Length of the compressed cluster, up to its last sector; 0: stored plain. */
  compressedBytes: number;
  /** Where the piece starts in the decompressed cluster. */
  innerOffset: number;
  lengthBytes: number;
  /** Of the destination file; in a `PieceList` the position that a layout settles. */
  destinationOffset: number;
}

/** Numbers of a piece in a `Float64Array`, in the order of the interface: one array crosses to a thread at once. */
export const PIECE_FIELDS = 5;

export function pieceAt(fields: Float64Array, index: number): Piece {
  const at = index * PIECE_FIELDS;
  return {
    hostOffset: fields[at] ?? 0,
    compressedBytes: fields[at + 1] ?? 0,
    innerOffset: fields[at + 2] ?? 0,
    lengthBytes: fields[at + 3] ?? 0,
    destinationOffset: fields[at + 4] ?? 0,
  };
}

/** The segments that the compressed clusters of `pieces` reach into. */
export function followingSegments(
  { segments, encryption }: Pick<ChainFile, 'segments' | 'encryption'>,
  index: number,
  pieces: Float64Array,
): SegmentSum[] {
  let end = 0;
  for (let piece = 0; piece < pieces.length / PIECE_FIELDS; piece += 1) {
    const { hostOffset, compressedBytes } = pieceAt(pieces, piece);
    if (compressedBytes > 0) end = Math.max(end, hostOffset + compressedBytes);
  }
  const reached: SegmentSum[] = [];
  for (let next = index + 1; next < segments.length; next += 1) {
    const segment = segments[next];
    if (!segment || imageOffset(segment, encryption) >= end) break;
    reached.push(segment);
  }
  return reached;
}

/** Gives pieces their places in the destination; one that has several is cut. */
export function settlePieces(pieces: Float64Array, layout: Pick<DestinationLayout, 'settle'>): Float64Array {
  const fields: number[] = [];
  for (let index = 0; index < pieces.length / PIECE_FIELDS; index += 1) {
    const { hostOffset, compressedBytes, innerOffset, lengthBytes, destinationOffset } = pieceAt(pieces, index);
    let done = 0;
    for (const part of layout.settle(destinationOffset, lengthBytes)) {
      const host = compressedBytes > 0 ? hostOffset : hostOffset + done;
      const inner = compressedBytes > 0 ? innerOffset + done : 0;
      fields.push(host, compressedBytes, inner, part.lengthBytes, part.offset);
      done += part.lengthBytes;
    }
  }
  return Float64Array.from(fields);
}

/** The pieces wanted of one file, 44 bytes each, by segment. */
export class PieceList {
  #fields = new Float64Array(64 * PIECE_FIELDS);
  #segments = new Uint32Array(64);
  #count = 0;
  #isInOrder = true;
  /** Of all pieces, as the guest sees them. */
  lengthBytes = 0;

  /** Within a segment the order of adding is kept. */
  add(segment: number, piece: Piece): void {
    if (this.#count === this.#segments.length) this.#grow();
    this.#isInOrder &&= this.#count === 0 || (this.#segments[this.#count - 1] ?? 0) <= segment;
    this.#segments[this.#count] = segment;
    const { hostOffset, compressedBytes, innerOffset, lengthBytes, destinationOffset } = piece;
    const fields = [hostOffset, compressedBytes, innerOffset, lengthBytes, destinationOffset];
    this.#fields.set(fields, this.#count * PIECE_FIELDS);
    this.#count += 1;
    this.lengthBytes += lengthBytes;
  }

  /** The pieces of each segment that has any, by index of the segment. */
  *bySegment(): Generator<{ segment: number; pieces: Float64Array }> {
    const order = this.#isInOrder ? undefined : this.#order();
    const indexOf = (position: number) => order?.[position] ?? position;
    for (let from = 0; from < this.#count;) {
      const segment = this.#segments[indexOf(from)] ?? 0;
      let to = from + 1;
      while (to < this.#count && this.#segments[indexOf(to)] === segment) to += 1;
      const pieces = new Float64Array((to - from) * PIECE_FIELDS);
      for (let position = from; position < to; position += 1) {
        const at = indexOf(position) * PIECE_FIELDS;
        pieces.set(this.#fields.subarray(at, at + PIECE_FIELDS), (position - from) * PIECE_FIELDS);
      }
      yield { segment, pieces };
      from = to;
    }
  }

  /** Positions sorted by segment, stable: a counting sort, there may be millions. */
  #order(): Uint32Array {
    const segments = this.#segments.subarray(0, this.#count);
    const starts = new Uint32Array(segments.reduce((most, segment) => Math.max(most, segment), 0) + 2);
    for (const segment of segments) starts[segment + 1] = (starts[segment + 1] ?? 0) + 1;
    for (let segment = 1; segment < starts.length; segment += 1) {
      starts[segment] = (starts[segment] ?? 0) + (starts[segment - 1] ?? 0);
    }
    const order = new Uint32Array(this.#count);
    for (const [index, segment] of segments.entries()) {
      const position = starts[segment] ?? 0;
      order[position] = index;
      starts[segment] = position + 1;
    }
    return order;
  }

  #grow(): void {
    const fields = new Float64Array(this.#fields.length * 2);
    fields.set(this.#fields);
    this.#fields = fields;
    const segments = new Uint32Array(this.#segments.length * 2);
    segments.set(this.#segments);
    this.#segments = segments;
  }
}
