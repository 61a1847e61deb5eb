import type { BlobSource, BlobSourceDescriptor } from '../repository/blob-store.ts';
import { readSegment } from './chain-source.ts';
import type { SegmentSum } from './contract.ts';
import { SEGMENT_BYTES, type ThreadContext } from './thread-task.ts';

/**
 * Reads a segment, and those behind it that its last cluster reaches into, and compares their hashes.
 * @throws CopierError `integrity`; BlobStoreError
 */
export async function readSegments(
  source: BlobSource,
  task: { source: BlobSourceDescriptor; segment: SegmentSum; following: SegmentSum[] },
  context: Pick<ThreadContext, 'buffer' | 'signal'>,
): Promise<Buffer> {
  const segments = [task.segment, ...task.following];
  const buffer = context.buffer(bufferBytes(segments.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0)));
  let length = 0;
  for (const segment of segments) {
    length += (await readSegment(source, task.source.blobKey, segment, buffer.subarray(length))).length;
    context.signal.throwIfAborted();
  }
  return buffer.subarray(0, length);
}

/** Few sizes, so that threads find their buffers again: segments of the copier have up to 4.25 MiB. */
const bufferBytes = (neededBytes: number): number =>
  Math.max(SEGMENT_BYTES, Math.ceil(neededBytes / MEBIBYTE) * MEBIBYTE);
const MEBIBYTE = 1024 * 1024;
