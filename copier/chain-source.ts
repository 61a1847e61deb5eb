import { createHash } from 'node:crypto';
import { BlobStoreError } from '../repository/blob-store.ts';
import type { BlobSource, BlobSourceDescriptor } from '../repository/blob-store.ts';
import { openSource } from '../repository/source.ts';
import { CopierError } from './contract.ts';
import type { ChainFile, SegmentSum } from './contract.ts';

/** Longest segment that is read whole; the copier makes them of 4 MiB at most. docs/repository-format.md, "Sums" */
export const MAX_SEGMENT_BYTES = 64 * 1024 * 1024;

/** Opens a stored file for reading. @throws CopierError `file-missing`; BlobStoreError */
export async function openStored(descriptor: BlobSourceDescriptor): Promise<BlobSource> {
  try {
    return await openSource(descriptor);
  } catch (error) {
    if (!(error instanceof BlobStoreError && error.code === 'not-found')) throw error;
    throw new CopierError('file-missing', `${descriptor.blobKey}: the file is missing`, {
      file: descriptor.blobKey,
      cause: error,
    });
  }
}

/** An integrity failure that names the blob. */
export const altered = (blobKey: string, what: string, cause?: unknown): CopierError =>
  new CopierError('integrity', `${blobKey}: ${what}`, { file: blobKey, ...(cause === undefined ? {} : { cause }) });

/** @throws CopierError `integrity` unless the segments cover the file without gap, each of a length that can be read */
export function checkSegments({ source, storedBytes, segments }: ChainFile): void {
  let end = 0;
  for (const { offset, lengthBytes } of segments) {
    if (offset !== end || !Number.isSafeInteger(lengthBytes) || lengthBytes <= 0 || lengthBytes > MAX_SEGMENT_BYTES) {
      throw altered(
        source.blobKey,
        `the sums have a segment of ${lengthBytes} bytes at ${offset} where ${end} is next`,
      );
    }
    end += lengthBytes;
  }
  if (end !== storedBytes) throw altered(source.blobKey, `the sums cover ${end} of ${storedBytes} bytes`);
}

/** @throws CopierError `integrity` when the file has another length than its manifest says */
export async function checkSize(source: BlobSource, { source: { blobKey }, storedBytes }: ChainFile): Promise<void> {
  const sizeBytes = await source.sizeBytes();
  if (sizeBytes === storedBytes) return;
  const problem = sizeBytes < storedBytes ? 'short' : 'long';
  throw altered(blobKey, `the file is too ${problem}: ${sizeBytes} bytes, the manifest says ${storedBytes}`);
}

/**
 * Reads one segment into the start of `buffer` and compares its hash.
 * @throws CopierError `integrity`, with file and offset
 */
export async function readSegment(
  source: BlobSource,
  blobKey: string,
  segment: SegmentSum,
  buffer: Buffer,
): Promise<Buffer> {
  const bytes = buffer.subarray(0, segment.lengthBytes);
  const count = await source.read(segment.offset, bytes);
  if (count !== bytes.length) {
    throw altered(blobKey, `the file ends at ${segment.offset + count}, within the segment at ${segment.offset}`);
  }
  compareHash(blobKey, segment, createHash('sha256').update(bytes).digest('hex'));
  return bytes;
}

/** @throws CopierError `integrity` */
export function compareHash(blobKey: string, { offset, lengthBytes, sha256 }: SegmentSum, found: string): void {
  if (found === sha256) return;
  throw altered(
    blobKey,
    `bytes ${offset} to ${offset + lengthBytes} were altered: their SHA-256 is ${found}, the manifest's sums say ${sha256}`,
  );
}

/** Index of the segment that holds the byte at `offset`. `hint`: where to look first. */
export function segmentAt(segments: readonly SegmentSum[], offset: number, hint = 0): number {
  const isIn = (index: number) => {
    const segment = segments[index];
    return segment !== undefined && offset >= segment.offset && offset < segment.offset + segment.lengthBytes;
  };
  if (isIn(hint)) return hint;
  if (isIn(hint + 1)) return hint + 1;
  let low = 0;
  let high = segments.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if ((segments[middle]?.offset ?? Infinity) <= offset) low = middle;
    else high = middle - 1;
  }
  if (!isIn(low)) throw new RangeError(`no segment holds offset ${offset}`);
  return low;
}
