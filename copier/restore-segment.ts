import { decompressCluster } from '../qcow2/decompress.ts';
import { Qcow2Error } from '../qcow2/qcow2-error.ts';
import type { BlobSink, BlobSourceDescriptor } from '../repository/blob-store.ts';
import { altered, openStored, readSegment } from './chain-source.ts';
import type { SegmentSum } from './contract.ts';
import { openDestination } from './destination.ts';
import { PIECE_FIELDS, pieceAt } from './restore-pieces.ts';
import type { Piece } from './restore-pieces.ts';
import { SEGMENT_BYTES } from './thread-task.ts';
import type { TaskHandler, ThreadContext, ThreadTask } from './thread-task.ts';

export interface RestoreSegmentTask extends ThreadTask {
  kind: 'restore-segment';
  source: BlobSourceDescriptor;
  segment: SegmentSum;
  /** Segments that a compressed cluster beginning in `segment` reaches into; none in files of the copier. */
  following: SegmentSum[];
  /** See `PieceList`; in guest order. */
  pieces: Float64Array;
  clusterBytes: number;
  compression: 'deflate' | 'zstd';
  destinationPath: string;
  /** Prefix of the resources that the caller releases. */
  resources: string;
}

/**
 * Reads one segment, compares its hash, then writes what is wanted of it to where it goes.
 * @throws CopierError `integrity`, `file-missing`, `destination-full`; BlobStoreError
 */
export const handle: TaskHandler<RestoreSegmentTask, undefined> = async (task, context) => {
  const { blobKey } = task.source;
  const source = await context.resource(`${task.resources}source:${blobKey}`, () => openStored(task.source));
  const destination = await context.resource(`${task.resources}destination`, () =>
    openDestination(task.destinationPath),
  );
  const segments = [task.segment, ...task.following];
  const buffer = context.buffer(bufferBytes(segments.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)));
  let length = 0;
  for (const segment of segments) {
    length += (await readSegment(source, blobKey, segment, buffer.subarray(length))).length;
    context.signal.throwIfAborted();
  }
  try {
    await writePieces(task, buffer.subarray(0, length), destination, context);
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    throw altered(blobKey, `segment at ${task.segment.offset} ${error.message}`, error);
  }
  return undefined;
};

/** Few sizes, so that threads find their buffers again: segments of the copier have up to 4.25 MiB. */
const bufferBytes = (neededBytes: number): number =>
  Math.max(SEGMENT_BYTES, Math.ceil(neededBytes / MEBIBYTE) * MEBIBYTE);
const MEBIBYTE = 1024 * 1024;

/** Pieces that follow each other in the destination are written at once. */
async function writePieces(
  task: RestoreSegmentTask,
  stored: Buffer,
  destination: BlobSink,
  context: ThreadContext,
): Promise<void> {
  const count = task.pieces.length / PIECE_FIELDS;
  const base = task.segment.offset;
  let staging: Buffer | undefined;
  let inflated: { hostOffset: number; cluster: Buffer } | undefined;

  const bytesOf = ({ hostOffset, compressedBytes, innerOffset, lengthBytes }: Piece): Buffer => {
    const at = hostOffset - base;
    if (compressedBytes === 0) return stored.subarray(at, at + lengthBytes);
    if (inflated?.hostOffset !== hostOffset) {
      const cluster = decompressCluster(stored.subarray(at, at + compressedBytes), task.compression, task.clusterBytes);
      inflated = { hostOffset, cluster };
    }
    return inflated.cluster.subarray(innerOffset, innerOffset + lengthBytes);
  };

  for (let index = 0; index < count;) {
    const first = pieceAt(task.pieces, index);
    let next = index + 1;
    let lengthBytes = first.lengthBytes;
    let isOneStretch = first.compressedBytes === 0;
    for (; next < count; next += 1) {
      const piece = pieceAt(task.pieces, next);
      const follows = piece.destinationOffset === first.destinationOffset + lengthBytes;
      if (!follows || lengthBytes + piece.lengthBytes > SEGMENT_BYTES) break;
      isOneStretch &&= piece.compressedBytes === 0 && piece.hostOffset === first.hostOffset + lengthBytes;
      lengthBytes += piece.lengthBytes;
    }
    if (isOneStretch) {
      const at = first.hostOffset - base;
      await destination.write(first.destinationOffset, stored.subarray(at, at + lengthBytes));
    } else {
      staging ??= context.buffer(bufferBytes(Math.max(SEGMENT_BYTES, task.clusterBytes)));
      let filled = 0;
      for (; index < next; index += 1) {
        const bytes = bytesOf(pieceAt(task.pieces, index));
        bytes.copy(staging, filled);
        filled += bytes.length;
      }
      await destination.write(first.destinationOffset, staging.subarray(0, filled));
    }
    context.signal.throwIfAborted();
    index = next;
  }
}
