import type { BlobSource } from '../repository/blob-store.ts';
import { readSegment } from './chain-source.ts';
import type { ChainFile, SegmentSum } from './contract.ts';
import { imageOffset } from './image-segments.ts';
import { SEGMENT_BYTES, type ThreadContext } from './thread-task.ts';

/** A segment of a stored file, for a thread. */
export interface StoredStretch extends Pick<ChainFile, 'source' | 'encryption'> {
  segment: SegmentSum;
  /** Segments that a compressed cluster beginning in `segment` reaches into; none in files of the copier. */
  following: SegmentSum[];
}

/**
 * Reads a segment, and those behind it that its last cluster reaches into, compares their hashes and opens them. `stored` is what
 * they hold of the image, from `storedOffset` of it on.
 * @throws CopierError `integrity`; BlobStoreError
 */
export async function readSegments(
  source: BlobSource,
  task: StoredStretch,
  context: Pick<ThreadContext, 'buffer' | 'signal'>,
): Promise<{ stored: Buffer; storedOffset: number }> {
  const segments = [task.segment, ...task.following];
  const buffer = context.buffer(bufferBytes(segments.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)));
  let length = 0;
  for (const segment of segments) {
    length += (await readSegment(source, task, segment, buffer.subarray(length), context.signal)).length;
    context.signal.throwIfAborted();
  }
  return { stored: buffer.subarray(0, length), storedOffset: imageOffset(task.segment, task.encryption) };
}

/** Few sizes, so that threads find their buffers again: segments of the copier have up to 4.25 MiB. */
const bufferBytes = (neededBytes: number): number =>
  Math.max(SEGMENT_BYTES, Math.ceil(neededBytes / MEBIBYTE) * MEBIBYTE);
const MEBIBYTE = 1024 * 1024;
