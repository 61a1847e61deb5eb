import type { PartSink } from '../repository/blob-store.ts';

/** A piece of a file that is stored whole. */
export interface Stretch {
  offset: number;
  lengthBytes: number;
}

/** Whole segments in a row that make one part of an upload. */
export interface TransferPart<S extends Stretch = Stretch> {
  /** From 1. */
  number: number;
  offset: number;
  lengthBytes: number;
  segments: S[];
}

/** Fewer requests than the smallest parts would need, and still several in flight in little memory. */
const USUAL_PART_BYTES = 8 * 1024 * 1024;

/**
 * Cuts a stored file into parts, always in the same way for the same sums: an attempt that goes on finds its parts again.
 * @throws RangeError when the file needs more or longer parts than the upload takes
 */
export function cutParts<S extends Stretch>(
  segments: readonly S[],
  {
    blobKey,
    minPartBytes,
    maxPartBytes,
    maxParts,
  }: Pick<PartSink, 'blobKey' | 'minPartBytes' | 'maxPartBytes' | 'maxParts'>,
): TransferPart<S>[] {
  const totalBytes = segments.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  const leastBytes = Math.max(minPartBytes, USUAL_PART_BYTES, Math.ceil(totalBytes / maxParts));
  const parts: TransferPart<S>[] = [];
  let open: TransferPart<S> | undefined;
  for (const segment of segments) {
    open ??= { number: parts.length + 1, offset: segment.offset, lengthBytes: 0, segments: [] };
    open.segments.push(segment);
    open.lengthBytes += segment.lengthBytes;
    if (open.lengthBytes < leastBytes) continue;
    parts.push(open);
    open = undefined;
  }
  if (open !== undefined) parts.push(open);
  const longestBytes = parts.reduce((most, { lengthBytes }) => Math.max(most, lengthBytes), 0);
  if (parts.length > maxParts || longestBytes > maxPartBytes) {
    throw new RangeError(`${blobKey}: ${totalBytes} bytes are more than an upload takes in parts of ${maxPartBytes}`);
  }
  return parts;
}
