import { createHash } from 'node:crypto';
import type { BlobSink, BlobSinkDescriptor } from '../repository/blob-store.ts';
import { openSink } from '../repository/sink.ts';
import type { SegmentSum } from './contract.ts';
import type { CopyNotes, CopyTarget, SegmentPlace } from './copy-target.ts';
import type { FileForm } from './file-form.ts';
import { FileSpace } from './file-space.ts';
import type { FinishedFile, StoredSegment } from './journal.ts';
import type { ClusterSizes } from './place-clusters.ts';
import { TaskBuffers } from './thread-buffers.ts';
import { SEGMENT_BYTES } from './thread-task.ts';

/** Alignment for O_DIRECT. */
const PAGE_BYTES = 4096;

/** A file in a directory: each thread writes its segments itself, at any offset. */
export class FileTarget implements CopyTarget {
  readonly sink: BlobSinkDescriptor;
  readonly #form: FileForm;
  readonly #notes: CopyNotes;
  readonly #signal: AbortSignal;
  readonly #space: FileSpace;
  readonly #tail: SegmentSum[] = [];
  #opened: BlobSink | undefined;
  #end = 0;

  /** @param taken where segments lie, or will lie, that an earlier attempt placed */
  constructor({
    sink,
    form,
    clusterBytes,
    notes,
    signal,
    taken = [],
  }: {
    sink: BlobSinkDescriptor;
    form: FileForm;
    clusterBytes: number;
    notes: CopyNotes;
    signal: AbortSignal;
    taken?: { offset: number; lengthBytes: number }[];
  }) {
    this.sink = sink;
    this.#form = form;
    this.#notes = notes;
    this.#signal = signal;
    this.#space = new FileSpace(clusterBytes, taken, form.alignBytes);
  }

  place(sizes: ClusterSizes): Promise<SegmentPlace> {
    return Promise.resolve({ offset: this.#space.place(sizes).offset });
  }

  placeAgain({ offset }: Pick<StoredSegment, 'offset'>): Promise<SegmentPlace> {
    return Promise.resolve({ offset });
  }

  segmentSettled(segment: StoredSegment): void {
    this.#notes.segmentPlaced(segment);
  }

  segmentDone(segment: StoredSegment): void {
    if (segment.lengthBytes > 0 && this.#form.isSealed) this.#notes.segmentStoredInPlace(segment.index);
    else this.#notes.segmentStored(segment);
  }

  async endData(): Promise<number> {
    const tailOffset = this.#space.align();
    for (const gap of this.#space.gaps) {
      const zeroes = Buffer.alloc(Math.min(SEGMENT_BYTES, gap.lengthBytes));
      for (let done = 0; done < gap.lengthBytes; done += zeroes.length) {
        const bytes = zeroes.subarray(0, Math.min(zeroes.length, gap.lengthBytes - done));
        await this.#write(gap.offset + done, bytes, { isEnd: false });
      }
    }
    this.#end = tailOffset;
    return tailOffset;
  }

  async append(bytes: Buffer, isEnd: boolean): Promise<void> {
    await this.#write(this.#end, bytes, { isEnd });
    this.#end += bytes.length;
  }

  storedLength(plainBytes: number): number {
    return this.#form.storedLength(plainBytes);
  }

  async finish(firstCluster: Buffer): Promise<FinishedFile> {
    await this.#write(0, firstCluster, { isEnd: false });
    return { storedBytes: this.#form.storedLength(this.#end), tail: this.#tail };
  }

  async #write(plainOffset: number, plain: Buffer, { isEnd }: { isEnd: boolean }): Promise<void> {
    this.#signal.throwIfAborted();
    const form = this.#form;
    const head = plainOffset === 0 ? form.head : Buffer.alloc(0);
    const offset = form.storedOffset(plainOffset) - head.length;
    const buffers = new TaskBuffers();
    try {
      // In memory as in the file: what is aligned there can go past the page cache.
      const at = offset % PAGE_BYTES;
      const memory = buffers.take(at + head.length + form.sealedLength(plain.length)).subarray(at);
      head.copy(memory);
      const room = memory.subarray(head.length);
      const stored = form.seal(plain, { plainOffset, isEnd }, room);
      if (stored === plain) plain.copy(room);
      this.#tail.push({
        offset,
        lengthBytes: memory.length,
        sha256: createHash('sha256').update(memory).digest('hex'),
      });
      this.#opened ??= await openSink(this.sink);
      await this.#opened.write(offset, memory);
    } finally {
      buffers.giveBack();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#opened?.[Symbol.asyncDispose]();
  }
}
