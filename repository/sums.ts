import { createHash } from 'node:crypto';
import type { BlobStore } from './blob-store.ts';
import { BlobStoreError } from './blob-store.ts';
import { sumsKey } from './layout.ts';
import { RepositoryError } from './repository-error.ts';

/** One stretch of a stored file and its hash. Segments cover the file without gap: sorted by offset, the last ends at its length. */
export interface SegmentSum {
  offset: number;
  lengthBytes: number;
  /** Hex, lower case. Of the bytes as stored. */
  sha256: string;
}

/** A line: 64 hex digits, and two numbers below 2^53 (16 digits), each after two spaces, and a line feed. */
const MAX_LINE_BYTES = 64 + 2 * (2 + 16) + 1;
/** 2^53 bytes in segments of 1 MiB would be more; a list this long would not fit a string either. */
const MAX_SEGMENTS = 4_000_000;
const LINE = /^([0-9a-f]{64}) {2}(0|[1-9][0-9]{0,15}) {2}([1-9][0-9]{0,15})$/;

/**
 * The text that lists the segments of a stored file: one line `<sha256>  <offset>  <length>` per segment, in bytes and
 * decimal, sorted by offset, without gap or overlap, the first at 0. ASCII; each line ends with a line feed.
 * docs/repository-format.md, "Sums".
 */
export function encodeSums(segments: readonly SegmentSum[]): Buffer {
  let end = 0;
  const lines = segments.map(({ offset, lengthBytes, sha256 }) => {
    const line = `${sha256}  ${offset}  ${lengthBytes}`;
    if (offset !== end || !LINE.test(line)) throw new RangeError(`segment at ${offset}: does not follow ${end}`);
    end += lengthBytes;
    return `${line}\n`;
  });
  return Buffer.from(lines.join(''), 'latin1');
}

/**
 * @param file the key, for messages
 * @param storedBytes length of the file that the segments must cover
 * @throws RepositoryError `invalid`, with the line
 */
export function parseSums(file: string, text: Uint8Array, storedBytes: number): SegmentSum[] {
  const lines = Buffer.from(text.buffer, text.byteOffset, text.byteLength).toString('latin1').split('\n');
  if (lines.pop() !== '') throw new RepositoryError('invalid', file, 'does not end with a line feed');
  let end = 0;
  const segments = lines.map((line, index) => {
    const [, sha256 = '', offset, length] = LINE.exec(line) ?? [];
    const segment = { sha256, offset: Number(offset), lengthBytes: Number(length) };
    if (offset === undefined || segment.offset !== end || end + segment.lengthBytes > storedBytes) {
      throw new RepositoryError(
        'invalid',
        file,
        `line ${index + 1} is not the segment of a file of ${storedBytes} bytes at offset ${end}`,
      );
    }
    end += segment.lengthBytes;
    return segment;
  });
  if (end !== storedBytes) {
    throw new RepositoryError('invalid', file, `covers ${end} bytes of a file of ${storedBytes}`);
  }
  return segments;
}

/** What a manifest says about a stored file and its list of sums. */
export interface StoredFile {
  file: string;
  storedBytes: number;
  sums: { file: string; sha256: string; segments: number };
}

/** Stores the sums of a file beside it. Repeatable. Returns what the manifest keeps of them. */
export async function writeSums(
  store: BlobStore,
  diskFile: string,
  segments: readonly SegmentSum[],
): Promise<StoredFile['sums']> {
  const content = encodeSums(segments);
  const file = sumsKey(diskFile);
  // `replace`: an attempt that was cut off may have left the sums of other bytes; no manifest names them yet.
  await store.putBlob(file, content, { replace: true });
  return { file, sha256: createHash('sha256').update(content).digest('hex'), segments: segments.length };
}

/**
 * Reads the sums of a stored file and proves them by the manifest's hash.
 * @throws RepositoryError `invalid` when they are missing or altered; BlobStoreError
 */
export async function readSums(store: BlobStore, stored: StoredFile): Promise<SegmentSum[]> {
  const { file, sha256, segments: count } = stored.sums;
  if (count > MAX_SEGMENTS) throw new RepositoryError('invalid', file, `${count} segments, at most ${MAX_SEGMENTS}`);
  const content = await store.getBlob(file, { maxBytes: count * MAX_LINE_BYTES }).catch((error: unknown) => {
    if (error instanceof BlobStoreError && (error.code === 'not-found' || error.code === 'too-large')) {
      throw new RepositoryError('invalid', file, error.code === 'not-found' ? 'is missing' : 'is too long', {
        cause: error,
      });
    }
    throw error;
  });
  if (createHash('sha256').update(content).digest('hex') !== sha256) {
    throw new RepositoryError('invalid', file, 'was altered: its SHA-256 is not that of the manifest');
  }
  const segments = parseSums(file, content, stored.storedBytes);
  if (segments.length !== count) {
    throw new RepositoryError('invalid', file, `${segments.length} segments; the manifest says ${count}`);
  }
  return segments;
}
