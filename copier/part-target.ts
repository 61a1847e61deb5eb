import { createHash } from 'node:crypto';
import type { PartSink } from '../repository/blob-store.ts';
import { CopierError, type SegmentSum } from './contract.ts';
import type { CopyNotes, CopyTarget, SegmentPlace } from './copy-target.ts';
import type { FileForm } from './file-form.ts';
import type { DataEnd, FinishedFile, NotedPart, StoredPart, StoredSegment } from './journal.ts';
import type { BufferShare, PartBuffers } from './part-buffers.ts';
import { placeClusters, type ClusterSizes } from './place-clusters.ts';
import { SEGMENT_BYTES } from './thread-task.ts';

const BUFFER_STEP_BYTES = 65_536;
/** Share of the parts an upload may have that the data is planned for; the rest is for what cannot be foreseen. */
const PLANNED_SHARE = 0.9;

/** What earlier attempts at an upload noted. */
export interface EarlierParts {
  closedParts: readonly NotedPart[];
  storedParts: ReadonlyMap<number, StoredPart>;
  /** Segments whose place is settled; those of parts that are not stored have to be put there again. */
  placed: ReadonlyMap<number, StoredSegment>;
  dataEnd: DataEnd | undefined;
}

export interface PartTargetOptions {
  sink: PartSink;
  form: FileForm;
  clusterBytes: number;
  /** The most that the file may become, to choose the size of its parts by. */
  expectedBytes: number;
  buffers: PartBuffers;
  notes: CopyNotes;
  signal: AbortSignal;
  earlier?: EarlierParts;
}

/** A part that is not stored yet. Offsets are of the plain file. */
interface Part {
  readonly number: number;
  readonly offset: number;
  end: number;
  isClosed: boolean;
  memory: SharedArrayBuffer | undefined;
  /** Segments that have their place in it and are not there yet. */
  pending: number;
  /** Stretches that nothing will lie in. */
  holes: { offset: number; lengthBytes: number }[];
  /** Sums of what belongs to no segment. */
  fillers: SegmentSum[];
  /** It holds tables: what a later attempt makes anew. */
  holdsTables: boolean;
}

/**
 * An object of a bucket, uploaded in parts. A part is made of whole segments in a row: threads put them into memory that they
 * share with this one, and when the last one is there, the part is stored. The first part has the header, so it is kept in memory to
 * the end; it is as short as the bucket allows.
 *
 * What another attempt finds in the journal, and what it does (decision 0014):
 * - a part that is stored: nothing, but the bucket must hold it, at its length;
 * - a closed part that is not known to be stored: its segments are copied again, to the same bytes. Stretches whose segment was never
 *   noted become zeroes: the part cannot have been stored, because that comes after the last note;
 * - the part that was open: nothing of it is left, unless the data had ended: then its segments are copied again, to the same bytes;
 * - tables and header: made again; they follow from where the segments lie.
 *
 * So no part is ever stored with two different contents, and no chunk of an encrypted file sealed over two.
 */
export class PartTarget implements CopyTarget {
  readonly sink = undefined;
  readonly #options: PartTargetOptions;
  readonly #share: BufferShare;
  readonly #stop = new AbortController();
  readonly #signal: AbortSignal;
  readonly #mostSegmentBytes: number;
  readonly #partBytes: number;
  /** Closed parts that lack something still. */
  readonly #unfinished: Part[] = [];
  readonly #settled: SegmentSum[] = [];
  readonly #storing = new Set<Promise<void>>();
  #first: Part;
  #open: Part;
  #dataEnd: DataEnd | undefined;
  /** Places are given out one after the other. */
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(options: PartTargetOptions) {
    const { sink, clusterBytes, expectedBytes, signal, earlier } = options;
    this.#options = options;
    this.#share = options.buffers.share();
    this.#signal = AbortSignal.any([signal, this.#stop.signal]);
    this.#mostSegmentBytes = SEGMENT_BYTES + clusterBytes;
    const least = sink.minPartBytes + this.#mostSegmentBytes;
    this.#partBytes = Math.max(
      least,
      Math.ceil(expectedBytes / (sink.maxParts * PLANNED_SHARE) / BUFFER_STEP_BYTES) * BUFFER_STEP_BYTES +
        this.#mostSegmentBytes,
    );
    if (this.#bufferBytes(2) > sink.maxPartBytes) {
      throw new RangeError(
        `${sink.blobKey}: parts of ${this.#bufferBytes(2)} bytes are needed, ${sink.maxPartBytes} is the most`,
      );
    }
    this.#open = newPart(1, 0, clusterBytes);
    this.#first = this.#open;
    if (earlier) this.#resume(earlier);
  }

  /** @throws CopierError `journal-mismatch` when the bucket does not hold what was noted as stored */
  static async open(options: PartTargetOptions): Promise<PartTarget> {
    const target = new PartTarget(options);
    const { sink, form, earlier } = options;
    if (earlier && earlier.storedParts.size > 0) {
      const found = await sink.storedParts();
      for (const { number, offset, lengthBytes } of earlier.closedParts) {
        if (!earlier.storedParts.has(number)) continue;
        const storedBytes = form.storedOffset(offset + lengthBytes) - form.storedOffset(offset);
        if (found.get(number) === storedBytes) continue;
        throw new CopierError(
          'journal-mismatch',
          `part ${number} of ${sink.blobKey} has ${found.get(number) ?? 'no'} bytes, its journal says ${storedBytes}`,
          { file: sink.blobKey },
        );
      }
    }
    return target;
  }

  #resume({ closedParts, storedParts, placed, dataEnd }: EarlierParts): void {
    const last = closedParts.at(-1);
    if (last) this.#open = newPart(last.number + 1, last.offset + last.lengthBytes);
    this.#dataEnd = dataEnd;
    const isOpen = dataEnd !== undefined && dataEnd.number > (last?.number ?? 0); // it had no room for tables otherwise
    if (isOpen) this.#open = newPart(dataEnd.number, dataEnd.offset, dataEnd.end);
    for (const { number, offset, lengthBytes } of closedParts) {
      if (storedParts.has(number)) this.#settled.push(...(storedParts.get(number)?.fillers ?? []));
      else this.#unfinished.push({ ...newPart(number, offset, offset + lengthBytes), isClosed: true });
    }
    const unfinished = [...this.#unfinished, ...(isOpen ? [this.#open] : [])];
    const segments = [...placed.values()].sort((a, b) => a.offset - b.offset);
    let next = 0;
    for (const part of unfinished) {
      let at = part.number === 1 ? this.#options.clusterBytes : part.offset;
      while ((segments[next]?.offset ?? Infinity) < at) next += 1;
      for (; ; next += 1) {
        const { offset, lengthBytes } = segments[next] ?? { offset: Infinity, lengthBytes: 0 };
        const until = Math.min(offset, part.end);
        if (until > at) part.holes.push({ offset: at, lengthBytes: until - at });
        if (offset >= part.end) break;
        part.pending += 1;
        at = offset + lengthBytes;
      }
    }
    this.#first = unfinished.find(({ number }) => number === 1) ?? this.#first;
  }

  place(sizes: ClusterSizes): Promise<SegmentPlace> {
    const { clusterBytes, form } = this.#options;
    const lengthAt = (start: number): number => placeClusters(start, sizes, clusterBytes, form.alignBytes).lengthBytes;
    return this.#inTurn(async () => {
      const part = this.#roomFor(lengthAt);
      await this.#giveMemory(part);
      const offset = part.end;
      part.end += lengthAt(offset);
      part.pending += 1;
      return this.#placeOf(part, offset);
    });
  }

  placeAgain({ offset }: Pick<StoredSegment, 'offset'>): Promise<SegmentPlace> {
    return this.#inTurn(async () => {
      const part = this.#partOf(offset);
      await this.#giveMemory(part);
      return this.#placeOf(part, offset);
    });
  }

  segmentSettled(): void {
    throw new Error('a segment of a part is noted when it is there');
  }

  segmentDone(segment: StoredSegment): void {
    if (segment.lengthBytes === 0) {
      this.#options.notes.segmentStored(segment);
      return;
    }
    this.#options.notes.segmentPlaced(segment);
    const part = this.#partOf(segment.offset);
    part.pending -= 1;
    this.#storeIfWhole(part);
  }

  endData(): Promise<number> {
    return this.#inTurn(async () => {
      // Those with segments had their memory before; the last of them may lack nothing but zeroes.
      for (const part of [...this.#unfinished]) {
        await this.#giveMemory(part);
        this.#storeIfWhole(part);
      }
      const { number, offset, end } = this.#open;
      if (!this.#dataEnd) this.#options.notes.dataEnded((this.#dataEnd = { number, offset, end }));
      const { clusterBytes } = this.#options;
      const tailOffset = Math.ceil(end / clusterBytes) * clusterBytes;
      if (tailOffset > end) await this.#append(Buffer.alloc(tailOffset - end), false);
      return tailOffset;
    });
  }

  append(bytes: Buffer, isEnd: boolean): Promise<void> {
    return this.#inTurn(() => this.#append(bytes, isEnd));
  }

  async #append(bytes: Buffer, isEnd: boolean): Promise<void> {
    const part = this.#roomFor(() => bytes.length);
    await this.#giveMemory(part);
    part.holdsTables = true;
    part.fillers.push(this.#fill(part, part.end, bytes, isEnd));
    part.end += bytes.length;
  }

  storedLength(plainBytes: number): number {
    return this.#options.form.storedLength(plainBytes);
  }

  finish(firstCluster: Buffer): Promise<FinishedFile> {
    return this.#inTurn(async () => {
      const { form } = this.#options;
      const storedBytes = form.storedLength(this.#open.end);
      const first = this.#first;
      if (this.#open !== first) this.#close(this.#open);
      first.isClosed = true;
      while (this.#storing.size > 0) await Promise.all(this.#storing);
      this.#signal.throwIfAborted();
      await this.#giveMemory(first);
      const memory = this.#bytesOf(first);
      form.head.copy(memory);
      this.#fill(first, 0, firstCluster, false);
      const head = memory.subarray(0, form.storedOffset(firstCluster.length));
      const sum = { offset: 0, lengthBytes: head.length, sha256: sha256(head) };
      await this.#put(first);
      return { storedBytes, tail: [...this.#settled, ...first.fillers, sum] };
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error('the copy has ended'));
    await Promise.allSettled([this.#turn, ...this.#storing]);
    this.#share[Symbol.dispose]();
  }

  #inTurn<T>(act: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(() => {
      this.#signal.throwIfAborted();
      return act();
    });
    this.#turn = Promise.allSettled([result]); // who asked is told of its failure
    return result;
  }

  /** The open part, or the next one where this has no room. */
  #roomFor(lengthAt: (start: number) => number): Part {
    const part = this.#open;
    const heldBytes = part.end - part.offset;
    const { sink } = this.#options;
    // The first part is held to the end: it is closed as soon as it may be.
    const isFull =
      part.number === 1 ? heldBytes >= sink.minPartBytes : heldBytes + lengthAt(part.end) > this.#partBytes;
    if (!isFull) return part;
    if (part.number >= sink.maxParts) throw new RangeError(`${sink.blobKey}: needs more than ${sink.maxParts} parts`);
    this.#close(part);
    this.#open = newPart(part.number + 1, part.end);
    return this.#open;
  }

  #close(part: Part): void {
    const { number, offset, end } = part;
    part.isClosed = true;
    // What a later attempt makes anew needs no note; nor has the part a place of its own then.
    if (!part.holdsTables) this.#options.notes.partClosed({ number, offset, lengthBytes: end - offset });
    this.#storeIfWhole(part);
    if (part.pending > 0 && part !== this.#first) this.#unfinished.push(part);
  }

  #storeIfWhole(part: Part): void {
    if (!part.isClosed || part.pending > 0 || part === this.#first) return;
    const index = this.#unfinished.indexOf(part);
    if (index >= 0) this.#unfinished.splice(index, 1);
    const storing: Promise<void> = this.#put(part)
      .then(() => {
        this.#settled.push(...part.fillers);
        if (!part.holdsTables) this.#options.notes.partStored({ number: part.number, fillers: part.fillers });
      })
      .catch((error: unknown) => this.#stop.abort(error))
      .finally(() => this.#storing.delete(storing));
    this.#storing.add(storing);
  }

  async #put(part: Part): Promise<void> {
    const { sink } = this.#options;
    const signal = this.#signal;
    await sink.putPart(part.number, this.#bytesOf(part), { signal });
    signal.throwIfAborted();
    if (part.memory) this.#share.giveBack(part.memory);
    part.memory = undefined;
  }

  async #giveMemory(part: Part): Promise<void> {
    if (part.memory) return;
    part.memory = await this.#share.take(this.#bufferBytes(part.number), this.#signal);
    for (const { offset, lengthBytes } of part.holes) {
      for (let done = 0; done < lengthBytes; done += SEGMENT_BYTES) {
        const zeroes = Buffer.alloc(Math.min(SEGMENT_BYTES, lengthBytes - done));
        part.fillers.push(this.#fill(part, offset + done, zeroes, false));
      }
    }
  }

  /** Puts plain bytes where they belong in a part. */
  #fill(part: Part, plainOffset: number, plain: Buffer, isEnd: boolean): SegmentSum {
    const { form } = this.#options;
    const { memory } = this.#placeOf(part, plainOffset);
    const room = Buffer.from(memory.buffer, memory.at, form.sealedLength(plain.length));
    const stored = form.seal(plain, { plainOffset, isEnd }, room);
    if (stored === plain) plain.copy(room);
    return { offset: form.storedOffset(plainOffset), lengthBytes: room.length, sha256: sha256(room) };
  }

  #placeOf(part: Part, offset: number): SegmentPlace & { memory: NonNullable<SegmentPlace['memory']> } {
    if (!part.memory) throw new Error(`part ${part.number} has no memory`);
    return {
      offset,
      memory: { buffer: part.memory, at: this.#options.form.storedOffset(offset) - this.#startOf(part) },
    };
  }

  /** Where the part begins in the stored file. */
  #startOf({ number, offset }: Part): number {
    return number === 1 ? 0 : this.#options.form.storedOffset(offset);
  }

  #bytesOf(part: Part): Buffer {
    if (!part.memory) throw new Error(`part ${part.number} has no memory`);
    const lengthBytes = this.#options.form.storedOffset(part.end) - this.#startOf(part);
    return Buffer.from(part.memory, 0, lengthBytes);
  }

  #partOf(offset: number): Part {
    const parts = [this.#first, ...this.#unfinished, this.#open];
    const part = parts.find((each) => offset >= each.offset && offset < each.end);
    if (!part) throw new Error(`no open part holds offset ${offset}`);
    return part;
  }

  #bufferBytes(number: number): number {
    const { sink, form } = this.#options;
    const plainBytes = number === 1 ? sink.minPartBytes + this.#mostSegmentBytes : this.#partBytes;
    const storedBytes = form.head.length + form.sealedLength(plainBytes);
    return Math.ceil(storedBytes / BUFFER_STEP_BYTES) * BUFFER_STEP_BYTES;
  }
}

const newPart = (number: number, offset: number, end = offset): Part => ({
  number,
  offset,
  end,
  isClosed: false,
  memory: undefined,
  pending: 0,
  holes: [],
  fillers: [],
  holdsTables: false,
});

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
