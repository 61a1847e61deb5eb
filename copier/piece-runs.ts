import { decompressCluster } from '../qcow2/decompress.ts';
import { freeMemory } from '../repository/free-memory.ts';
import { PIECE_FIELDS, pieceAt } from './restore-pieces.ts';
import { SEGMENT_BYTES } from './thread-task.ts';

/** Pieces of a segment that follow each other in the destination, up to 4 MiB: one write. */
export interface PieceRun {
  /** Index of the first piece and of the first one after the run. */
  from: number;
  to: number;
  destinationOffset: number;
  lengthBytes: number;
  /** Where the run begins in the stored file, if it lies there as it is; else it has to be gathered. */
  plainOffset: number | undefined;
}

export function* pieceRuns(pieces: Float64Array): Generator<PieceRun> {
  const count = pieces.length / PIECE_FIELDS;
  for (let from = 0; from < count;) {
    const { destinationOffset, hostOffset, compressedBytes, lengthBytes: firstBytes } = pieceAt(pieces, from);
    let lengthBytes = firstBytes;
    let isPlain = compressedBytes === 0;
    let to = from + 1;
    for (; to < count; to += 1) {
      const piece = pieceAt(pieces, to);
      const follows = piece.destinationOffset === destinationOffset + lengthBytes;
      if (!follows || lengthBytes + piece.lengthBytes > SEGMENT_BYTES) break;
      isPlain &&= piece.compressedBytes === 0 && piece.hostOffset === hostOffset + lengthBytes;
      lengthBytes += piece.lengthBytes;
    }
    yield { from, to, destinationOffset, lengthBytes, plainOffset: isPlain ? hostOffset : undefined };
    from = to;
  }
}

/**
 * Puts the guest's bytes of a run together.
 * @param stored the segment that the pieces are of, and those that its last cluster reaches into; begins at `storedOffset`
 * @throws Qcow2Error
 */
export function gatherRun(
  { from, to }: Pick<PieceRun, 'from' | 'to'>,
  {
    pieces,
    clusterBytes,
    compression,
  }: { pieces: Float64Array; clusterBytes: number; compression: 'deflate' | 'zstd' },
  { stored, storedOffset }: { stored: Buffer; storedOffset: number },
  into: Buffer,
): void {
  let filled = 0;
  let decompressed: { hostOffset: number; cluster: Buffer } | undefined;
  const forget = (): void => {
    if (decompressed !== undefined) freeMemory(decompressed.cluster);
  };
  for (let index = from; index < to; index += 1) {
    const { hostOffset, compressedBytes, innerOffset, lengthBytes } = pieceAt(pieces, index);
    const at = hostOffset - storedOffset;
    if (compressedBytes === 0) {
      filled += stored.copy(into, filled, at, at + lengthBytes);
      continue;
    }
    // Newer data may leave several pieces of one cluster.
    if (decompressed?.hostOffset !== hostOffset) {
      forget();
      const cluster = decompressCluster(stored.subarray(at, at + compressedBytes), compression, clusterBytes);
      decompressed = { hostOffset, cluster };
    }
    filled += decompressed.cluster.copy(into, filled, innerOffset, innerOffset + lengthBytes);
  }
  forget();
}
