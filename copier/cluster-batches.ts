import { altered } from './chain-source.ts';
import { PIECE_FIELDS, pieceAt } from './restore-pieces.ts';
import { SEGMENT_BYTES } from './thread-task.ts';

/** Clusters of the disk that are read in one go, and the pieces that fill them. See `StoredClusters`. */
export interface ClusterBatch {
  pieces: Float64Array;
  guests: Uint32Array;
}

/**
 * Cuts the pieces of one segment, whose destinations are offsets on the disk, into batches of whole clusters, up to 4 MiB
 * each. Segments of the copier make one each.
 * @param ends offsets besides whole clusters where a piece may end: sizes of the disk
 * @throws CopierError `integrity` where a piece is only part of a cluster
 */
export function* clusterBatches(
  pieces: Float64Array,
  { clusterBytes, ends, blobKey }: { clusterBytes: number; ends: readonly number[]; blobKey: string },
): Generator<ClusterBatch> {
  const most = SEGMENT_BYTES / clusterBytes;
  let fields: number[] = [];
  let guests: number[] = [];
  const batch = (): ClusterBatch => ({ pieces: Float64Array.from(fields), guests: Uint32Array.from(guests) });
  for (let index = 0; index < pieces.length / PIECE_FIELDS; index += 1) {
    const piece = pieceAt(pieces, index);
    const end = piece.destinationOffset + piece.lengthBytes;
    if (piece.destinationOffset % clusterBytes !== 0 || (end % clusterBytes !== 0 && !ends.includes(end))) {
      throw altered(blobKey, `its sums cut clusters of ${clusterBytes} bytes, so it cannot be rewritten`);
    }
    for (let at = piece.destinationOffset; at < end;) {
      const count = Math.min(most - guests.length, Math.ceil((end - at) / clusterBytes));
      const lengthBytes = Math.min(count * clusterBytes, end - at);
      const done = at - piece.destinationOffset;
      const isPlain = piece.compressedBytes === 0;
      fields.push(
        piece.hostOffset + (isPlain ? done : 0),
        piece.compressedBytes,
        piece.innerOffset + (isPlain ? 0 : done),
        lengthBytes,
        guests.length * clusterBytes,
      );
      for (let cluster = 0; cluster < count; cluster += 1) guests.push(at / clusterBytes + cluster);
      at += lengthBytes;
      if (guests.length < most) continue;
      yield batch();
      fields = [];
      guests = [];
    }
  }
  if (guests.length > 0) yield batch();
}
