import type { StoredBytes } from '../qcow2/reader.ts';
import type { BlobSource } from '../repository/blob-store.ts';
import { readSegment, segmentAt } from './chain-source.ts';
import type { ChainFile } from './contract.ts';
import { imageBytes, imageEnd, imageOffset, storedPlace } from './image-segments.ts';

/** Header, L1 and L2 tables lie in a few places that are read over and over. */
const CACHED_SEGMENTS = 3;

/** Bytes of an image for the one who parses its tables: hashed first, as whole stored segments, then opened and handed out. */
export class VerifiedBytes implements StoredBytes {
  readonly sizeBytes: number;
  /** Indices of the segments that were read and matched. */
  readonly verified = new Set<number>();
  readonly #file: ChainFile;
  readonly #source: BlobSource;
  readonly #signal: AbortSignal;
  /** Newest last. */
  readonly #cache = new Map<number, Buffer>();

  constructor(file: ChainFile, source: BlobSource, signal: AbortSignal) {
    this.sizeBytes = imageBytes(file);
    this.#file = file;
    this.#source = source;
    this.#signal = signal;
  }

  async read(offset: number, lengthBytes: number): Promise<Buffer> {
    const { segments, encryption } = this.#file;
    const end = offset + lengthBytes;
    const parts: Buffer[] = [];
    for (let at = offset, index = 0; at < end; index += 1) {
      index = segmentAt(segments, storedPlace(at, encryption), index);
      const segment = segments[index];
      if (!segment) break;
      const bytes = await this.#segment(index);
      const start = imageOffset(segment, encryption);
      parts.push(bytes.subarray(at - start, end - start));
      at = imageEnd(segment, encryption);
    }
    return parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts);
  }

  async #segment(index: number): Promise<Buffer> {
    let bytes = this.#cache.get(index);
    if (!bytes) {
      this.#signal.throwIfAborted();
      const segment = this.#file.segments[index];
      if (!segment) throw new RangeError(`no segment ${index}`);
      const buffer = Buffer.allocUnsafeSlow(segment.lengthBytes);
      bytes = await readSegment(this.#source, this.#file, segment, buffer, this.#signal);
      this.verified.add(index);
      const [oldest] = this.#cache.keys();
      if (oldest !== undefined && this.#cache.size >= CACHED_SEGMENTS) this.#cache.delete(oldest);
    }
    this.#cache.delete(index);
    this.#cache.set(index, bytes);
    return bytes;
  }
}
