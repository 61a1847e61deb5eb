import { createHash } from 'node:crypto';
import { AGE_HEAD_BYTES, AgeError, openChunks, storedLength } from '../repository/age-file.ts';
import { BlobStoreError } from '../repository/blob-store.ts';
import type { BlobSource, BlobSourceDescriptor } from '../repository/blob-store.ts';
import { openSource } from '../repository/source.ts';
import { CopierError } from './contract.ts';
import type { ChainFile, OpenedEncryption, SegmentSum } from './contract.ts';
import { imageEnd, imageOffset, isChunkBorder } from './image-segments.ts';

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

/** Whether it is read over a network, where several reads at once hide how long each one takes. */
export const isRemote = (source: BlobSourceDescriptor): boolean => source.kind === 's3';

/** An integrity failure that names the blob. */
export const altered = (blobKey: string, what: string, cause?: unknown): CopierError =>
  new CopierError('integrity', `${blobKey}: ${what}`, { file: blobKey, ...(cause === undefined ? {} : { cause }) });

/** @throws CopierError `integrity` unless the segments cover the file without gap, each of a length that can be read */
export function checkSegments(file: ChainFile): void {
  const { source, storedBytes, segments } = file;
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
  checkImageSegments(file);
}

/** @throws CopierError `integrity` unless each segment is whole chunks of an age file that holds `plainBytes` */
function checkImageSegments({ source: { blobKey }, storedBytes, segments, encryption }: ChainFile): void {
  if (encryption === undefined) return;
  if (storedLength(encryption.plainBytes) !== storedBytes) {
    throw altered(
      blobKey,
      `the manifest says that its ${storedBytes} bytes are ${encryption.plainBytes} encrypted ones`,
    );
  }
  const cut = segments.find(({ offset }) => offset !== 0 && !isChunkBorder(offset));
  if (cut) throw altered(blobKey, `the sums have a segment at ${cut.offset}, where no encrypted chunk begins`);
}

/** @throws CopierError `integrity` when the file has another length than its manifest says */
export async function checkSize(source: BlobSource, { source: { blobKey }, storedBytes }: ChainFile): Promise<void> {
  const sizeBytes = await source.sizeBytes();
  if (sizeBytes === storedBytes) return;
  const problem = sizeBytes < storedBytes ? 'short' : 'long';
  throw altered(blobKey, `the file is too ${problem}: ${sizeBytes} bytes, the manifest says ${storedBytes}`);
}

/**
 * Reads one segment into `buffer`, which has its length or more, compares its hash, and opens it where the file is encrypted.
 * Returns what it holds of the image, at the start of `buffer`.
 * @throws CopierError `integrity`, with file and offset; the signal's reason
 */
export async function readSegment(
  source: BlobSource,
  { source: { blobKey }, encryption }: Pick<ChainFile, 'source' | 'encryption'>,
  segment: SegmentSum,
  buffer: Buffer,
  signal: AbortSignal,
): Promise<Buffer> {
  const bytes = buffer.subarray(0, segment.lengthBytes);
  const count = await source.read(segment.offset, bytes, { signal });
  if (count !== bytes.length) {
    throw altered(blobKey, `the file ends at ${segment.offset + count}, within the segment at ${segment.offset}`);
  }
  compareHash(blobKey, segment, createHash('sha256').update(bytes).digest('hex'));
  return encryption === undefined ? bytes : openSegment(blobKey, segment, bytes, encryption, buffer);
}

/**
 * Opens a segment whose hash was compared. `into` is the memory of `stored`, from the same byte on or before, or another one.
 * @throws CopierError `integrity`: the key is not this file's, or the writer sealed another chunk
 */
function openSegment(
  blobKey: string,
  segment: SegmentSum,
  stored: Buffer,
  encryption: OpenedEncryption,
  into: Buffer,
): Buffer {
  const start = imageOffset(segment, encryption);
  const place = { plainOffset: start, isEnd: imageEnd(segment, encryption) === encryption.plainBytes };
  const sealed = segment.offset === 0 ? stored.subarray(AGE_HEAD_BYTES) : stored;
  try {
    const opened = openChunks(encryption.payloadKey, sealed, place, into);
    return into.subarray(0, opened.length);
  } catch (error) {
    if (!(error instanceof AgeError)) throw error;
    throw altered(blobKey, error.message, error);
  }
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
