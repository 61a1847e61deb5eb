import { createHash } from 'node:crypto';
import type { BlobSinkDescriptor } from '../repository/blob-store.ts';
import { openSink } from '../repository/sink.ts';
import { ClusterCompressor } from './cluster-compressor.ts';
import { CopierError } from './contract.ts';
import type { SegmentPlace } from './copy-target.ts';
import { formOf, type FileForm } from './file-form.ts';
import { placeClusters, WRITE_ALIGNMENT, type ClusterSizes } from './place-clusters.ts';
import { SEGMENT_BYTES, type ThreadContext } from './thread-task.ts';

/** Where and how a thread stores clusters. */
export interface StoreClusters {
  /** Names the copy: what is opened for it is kept under this name. */
  copy: string;
  /** Absent where the bytes go into memory that the main thread names. */
  sink?: BlobSinkDescriptor | undefined;
  clusterBytes: number;
  compression: 'zstd' | 'none';
  /** Of an encrypted file. Secret. */
  payloadKey?: Uint8Array | undefined;
  /** What an earlier attempt made of the same clusters: it must come out again. */
  again?: { place: SegmentPlace; sizes: ClusterSizes; sha256: Uint8Array } | undefined;
}

/**
 * What a task asks. `place`: where a segment goes, once the sizes of its clusters are known; answered by a `SegmentPlace`.
 * `settled`: that it be noted what will be written, before it is.
 */
export type StoreQuestion = { kind: 'place'; sizes: ClusterSizes } | { kind: 'settled'; segment: WrittenSegment };

/** Offset and length are of the plain file. `lengthBytes` is 0 when all clusters were zero. */
export interface WrittenSegment {
  offset: number;
  lengthBytes: number;
  /** Of the stored bytes. */
  sha256: Uint8Array;
  sizes: ClusterSizes;
}

/** More than the tags of a segment's chunks, and than what its place in a page takes. */
const SEALING_BYTES = 65_536;

let zeroes = Buffer.alloc(0);
const compressors = new Map<number, ClusterCompressor>();

/**
 * Memory for one segment; the clusters go behind its first `clusterBytes`: the gap before the first plain cluster lies in
 * front of the data, so that a segment is one piece of memory. It is sealed in the same memory, which is in the processor's cache.
 */
export const segmentMemory = (
  { clusterBytes, payloadKey }: Pick<StoreClusters, 'clusterBytes' | 'payloadKey'>,
  context: Pick<ThreadContext, 'buffer'>,
): Buffer => context.buffer(clusterBytes + SEGMENT_BYTES + (payloadKey ? SEALING_BYTES : 0));

/** Compresses, places, seals, hashes and writes clusters; at most `SEGMENT_BYTES` of them. `memory` as `segmentMemory` says. */
export async function storeClusters(
  task: StoreClusters,
  memory: Buffer,
  clusters: number,
  context: ThreadContext,
): Promise<WrittenSegment> {
  const { again, payloadKey } = task;
  const data = memory.subarray(task.clusterBytes);
  const { sizes, packed } = again ? repeat(task, again, context, data) : measure(task, context, data, clusters);
  if (sizes.every((size) => size === 0)) return { offset: 0, lengthBytes: 0, sha256: new Uint8Array(32), sizes };
  const place = again?.place ?? ((await context.ask({ kind: 'place', sizes } satisfies StoreQuestion)) as SegmentPlace);
  const form = formOf(payloadKey);
  const plain = assemble(task, memory, packed, sizes, { offset: place.offset, alignBytes: form.alignBytes });
  const room = roomFor(place, form, plain);
  const stored = form.seal(plain, { plainOffset: place.offset, isEnd: false }, room);
  const sha256 = createHash('sha256').update(stored).digest();
  if (again && !sha256.equals(again.sha256)) throw notAgain(place.offset);
  const segment: WrittenSegment = { offset: place.offset, lengthBytes: plain.length, sha256, sizes };
  context.signal.throwIfAborted();
  if (place.memory) {
    if (stored === plain) plain.copy(room);
    return segment;
  }
  const { sink: descriptor } = task;
  if (!descriptor) throw new Error('a segment has neither memory nor sink');
  const sink = await context.resource(`${task.copy}/sink`, () => openSink(descriptor));
  if (form.isSealed && !again) await context.ask({ kind: 'settled', segment } satisfies StoreQuestion);
  await sink.write(form.storedOffset(place.offset), stored);
  return segment;
}

/**
 * Memory for the stored bytes: that of the part, or that of the plain ones, from where on it lies to pages as the place in the file
 * does, so that the bytes can go past the page cache.
 */
function roomFor(place: SegmentPlace, form: FileForm, plain: Buffer): Buffer {
  const lengthBytes = form.sealedLength(plain.length);
  if (place.memory) return Buffer.from(place.memory.buffer, place.memory.at, lengthBytes);
  if (!form.isSealed) return plain;
  const { buffer, byteOffset } = plain;
  const behindBytes = (form.storedOffset(place.offset) - byteOffset) % WRITE_ALIGNMENT;
  return Buffer.from(buffer, byteOffset + behindBytes + (behindBytes < 0 ? WRITE_ALIGNMENT : 0), lengthBytes);
}

const notAgain = (offset: number): CopierError =>
  new CopierError(
    'journal-mismatch',
    `the segment at ${offset} of the file is not what an earlier attempt read from the same frozen disk`,
  );

/** The clusters as they were stored before. @throws CopierError `journal-mismatch` where they cannot be */
function repeat(
  { clusterBytes }: StoreClusters,
  { sizes, place }: NonNullable<StoreClusters['again']>,
  context: ThreadContext,
  data: Buffer,
): { sizes: ClusterSizes; packed: Buffer | undefined } {
  const compressor = compressorOf(clusterBytes);
  const packed = context.buffer(SEGMENT_BYTES + compressor.roomBytes);
  if (zeroes.length < clusterBytes) zeroes = Buffer.alloc(clusterBytes);
  let at = 0;
  for (const [i, size] of sizes.entries()) {
    const cluster = data.subarray(i * clusterBytes, (i + 1) * clusterBytes);
    if (size === clusterBytes) continue;
    const found = size === 0 ? cluster.compare(zeroes, 0, clusterBytes) : compressor.compressAgain(cluster, packed, at);
    if (found !== size) throw notAgain(place.offset);
    at += size;
  }
  return { sizes, packed };
}

/** Decides how each cluster is stored. Compressed ones lie in `packed`, one behind the other, in order. */
function measure(
  { clusterBytes, compression }: StoreClusters,
  context: ThreadContext,
  data: Buffer,
  clusters: number,
): { sizes: ClusterSizes; packed: Buffer | undefined } {
  const sizes = new Uint32Array(clusters);
  const compressor = compression === 'zstd' ? compressorOf(clusterBytes) : undefined;
  const packed = compressor && context.buffer(SEGMENT_BYTES + compressor.roomBytes);
  if (zeroes.length < clusterBytes) zeroes = Buffer.alloc(clusterBytes);
  let at = 0;
  for (let i = 0; i < clusters; i++) {
    const start = i * clusterBytes;
    if (data.compare(zeroes, 0, clusterBytes, start, start + clusterBytes) === 0) continue;
    const storedBytes = packed && compressor.compress(data.subarray(start, start + clusterBytes), packed, at);
    sizes[i] = storedBytes ?? clusterBytes;
    at += storedBytes ?? 0;
  }
  return { sizes, packed };
}

function compressorOf(clusterBytes: number): ClusterCompressor {
  let compressor = compressors.get(clusterBytes);
  if (!compressor) compressors.set(clusterBytes, (compressor = new ClusterCompressor(clusterBytes)));
  return compressor;
}

/** Puts the segment together, as it will lie in the file, and returns it. Plain clusters move as little as can be. */
function assemble(
  { clusterBytes }: StoreClusters,
  memory: Buffer,
  packed: Buffer | undefined,
  sizes: ClusterSizes,
  { offset, alignBytes }: { offset: number; alignBytes: number },
): Buffer {
  const { offsets, lengthBytes } = placeClusters(offset, sizes, clusterBytes, alignBytes);
  const firstPlain = sizes.indexOf(clusterBytes);
  // Where in `memory` the segment starts: its first plain cluster lands where the data begins.
  const base = firstPlain < 0 ? clusterBytes : clusterBytes - ((offsets[firstPlain] ?? 0) - offset);
  const placeOf = (i: number) => base + (offsets[i] ?? 0) - offset;
  let end = base;
  for (let i = Math.max(firstPlain, 0); i < sizes.length; i++) {
    if (sizes[i] !== clusterBytes) continue;
    const from = clusterBytes + i * clusterBytes;
    if (from !== placeOf(i)) memory.copyWithin(placeOf(i), from, from + clusterBytes);
    end = placeOf(i) + clusterBytes;
  }
  if (packed) {
    let gapEnd = base; // behind the last compressed cluster before the plain ones
    let at = 0;
    sizes.forEach((size, i) => {
      if (size === 0 || size === clusterBytes) return;
      packed.copy(memory, placeOf(i), at, at + size);
      at += size;
      const filled = placeOf(i) + size;
      if (firstPlain >= 0 && filled <= clusterBytes) gapEnd = Math.max(gapEnd, filled);
      else end = Math.max(end, filled);
    });
    if (firstPlain >= 0) memory.fill(0, gapEnd, clusterBytes);
  } else if (base < clusterBytes) {
    memory.fill(0, base, clusterBytes);
  }
  memory.fill(0, end, base + lengthBytes);
  return memory.subarray(base, base + lengthBytes);
}
