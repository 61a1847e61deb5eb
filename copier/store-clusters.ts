import { createHash } from 'node:crypto';
import type { BlobSinkDescriptor } from '../repository/blob-store.ts';
import { openSink } from '../repository/sink.ts';
import { ClusterCompressor } from './cluster-compressor.ts';
import { placeClusters, type ClusterSizes } from './place-clusters.ts';
import { SEGMENT_BYTES, type ThreadContext } from './thread-task.ts';

/** Where and how a thread stores clusters. */
export interface StoreClusters {
  /** Names the copy: what is opened for it is kept under this name. */
  copy: string;
  sink: BlobSinkDescriptor;
  clusterBytes: number;
  compression: 'zstd' | 'none';
}

/** What the task asks once it knows the sizes; the answer is the segment's offset in the file. */
export interface PlaceQuestion {
  sizes: ClusterSizes;
}

/** `lengthBytes` is 0 when all clusters were zero. */
export interface WrittenSegment {
  offset: number;
  lengthBytes: number;
  sha256: Uint8Array;
  sizes: ClusterSizes;
}

let zeroes = Buffer.alloc(0);
const compressors = new Map<number, ClusterCompressor>();

/**
 * Memory for one segment; the clusters go behind its first `clusterBytes`: the gap before the first plain cluster lies in
 * front of the data, so that a segment is one piece of memory.
 */
export const segmentMemory = (clusterBytes: number, context: Pick<ThreadContext, 'buffer'>): Buffer =>
  context.buffer(clusterBytes + SEGMENT_BYTES);

/** Compresses, places, hashes and writes clusters; at most `SEGMENT_BYTES` of them. `memory` as `segmentMemory` says. */
export async function storeClusters(
  task: StoreClusters,
  memory: Buffer,
  clusters: number,
  context: ThreadContext,
): Promise<WrittenSegment> {
  const { sizes, packed } = measure(task, context, memory.subarray(task.clusterBytes), clusters);
  if (sizes.every((size) => size === 0)) return { offset: 0, lengthBytes: 0, sha256: new Uint8Array(32), sizes };
  const offset = (await context.ask({ sizes } satisfies PlaceQuestion)) as number;
  const segment = assemble(task, memory, packed, sizes, offset);
  const sha256 = createHash('sha256').update(segment).digest();
  const sink = await context.resource(`${task.copy}/sink`, () => openSink(task.sink));
  context.signal.throwIfAborted();
  await sink.write(offset, segment);
  return { offset, lengthBytes: segment.length, sha256, sizes };
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
  offset: number,
): Buffer {
  const { offsets, lengthBytes } = placeClusters(offset, sizes, clusterBytes);
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
