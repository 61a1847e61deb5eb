import { createHash } from 'node:crypto';
import { connectNbd, type NbdConnection, type ReadRequest } from '../nbd/connection.ts';
import { NbdConnectionLost, NbdError, NbdRefused } from '../nbd/errors.ts';
import type { BlobSinkDescriptor } from '../repository/blob-store.ts';
import { openSink } from '../repository/sink.ts';
import { ClusterCompressor } from './cluster-compressor.ts';
import { CopierError } from './contract.ts';
import { placeClusters, type ClusterSizes } from './place-clusters.ts';
import { SEGMENT_BYTES, type TaskHandler, type ThreadContext, type ThreadTask } from './thread-task.ts';

/** Reads some clusters of a frozen disk and stores them. Only numbers go back to the main thread. */
export interface CopySegmentTask extends ThreadTask {
  kind: 'copy-segment';
  /** Names the copy: connection and sink are kept under it. */
  copy: string;
  source: { socketPath: string; exportName: string; virtualSizeBytes: number };
  sink: BlobSinkDescriptor;
  clusterBytes: number;
  compression: 'zstd' | 'none';
  /** First cluster and count of each run, one after the other; together at most `SEGMENT_BYTES`. */
  runs: number[];
}

/** What the task asks once it knows the sizes; the answer is the segment's offset in the file. */
export interface PlaceQuestion {
  sizes: ClusterSizes;
}

export interface CopiedSegment {
  offset: number;
  lengthBytes: number;
  sha256: Uint8Array;
  readBytes: number;
  sizes: ClusterSizes;
}

let zeroes = Buffer.alloc(0);
const compressors = new Map<number, ClusterCompressor>();

export const handle: TaskHandler<CopySegmentTask, CopiedSegment> = async (task, context) => {
  const { clusterBytes } = task;
  // The gap before the first plain cluster lies in front of the data, so that a segment is one piece of memory.
  const memory = context.buffer(clusterBytes + SEGMENT_BYTES);
  const data = memory.subarray(clusterBytes);
  const clusters = clusterCount(task.runs);
  const readBytes = await readRuns(task, context, data);

  const { sizes, packed } = measure(task, context, data, clusters);
  if (sizes.every((size) => size === 0))
    return { offset: 0, lengthBytes: 0, sha256: new Uint8Array(32), readBytes, sizes };

  const offset = (await context.ask({ sizes } satisfies PlaceQuestion)) as number;
  const segment = assemble(task, memory, packed, sizes, offset);
  const sha256 = createHash('sha256').update(segment).digest();
  const sink = await context.resource(`${task.copy}/sink`, () => openSink(task.sink));
  context.signal.throwIfAborted();
  await sink.write(offset, segment);
  return { offset, lengthBytes: segment.length, sha256, readBytes, sizes };
};

function clusterCount(runs: readonly number[]): number {
  let clusters = 0;
  for (let i = 1; i < runs.length; i += 2) clusters += runs[i] ?? 0;
  return clusters;
}

/** Reads the runs one behind the other; what lies past the end of the disk is zero. */
async function readRuns(task: CopySegmentTask, context: ThreadContext, data: Buffer): Promise<number> {
  const { virtualSizeBytes } = task.source;
  const requests: ReadRequest[] = [];
  let at = 0;
  for (let i = 0; i < task.runs.length; i += 2) {
    const offset = (task.runs[i] ?? 0) * task.clusterBytes;
    const wholeBytes = (task.runs[i + 1] ?? 0) * task.clusterBytes;
    const lengthBytes = Math.min(wholeBytes, virtualSizeBytes - offset);
    requests.push({ offset, into: data.subarray(at, at + lengthBytes) });
    data.fill(0, at + lengthBytes, at + wholeBytes);
    at += wholeBytes;
  }
  return await withReconnection(task, context, (connection) => connection.read(requests, { signal: context.signal }));
}

/** A lost connection is made anew once: the server may have dropped just this one. Then the job counts as lost. */
async function withReconnection<T>(
  { copy, source }: CopySegmentTask,
  context: ThreadContext,
  act: (connection: NbdConnection) => Promise<T>,
): Promise<T> {
  const key = `${copy}/nbd`;
  for (let attempt = 1; ; attempt++) {
    let connection: NbdConnection | undefined;
    try {
      connection = await context.resource(key, () => connectNbd({ socketPath: source.socketPath }, source.exportName));
      if (connection.info.sizeBytes !== source.virtualSizeBytes) {
        throw new NbdRefused(
          'unknown',
          `the export has ${connection.info.sizeBytes} bytes, not ${source.virtualSizeBytes}`,
        );
      }
      return await act(connection);
    } catch (error) {
      context.signal.throwIfAborted();
      if (!isLoss(error)) throw error;
      if (connection) await context.dropResource(key, connection);
      if (attempt === 1) continue;
      throw jobLost(source, error);
    }
  }
}

/** Whether the other side is gone, as far as one can tell, rather than a sector unreadable. */
export const isLoss = (error: unknown): boolean =>
  error instanceof NbdConnectionLost ||
  error instanceof NbdRefused ||
  (error instanceof NbdError && error.code === 'ESHUTDOWN');

export function jobLost(source: { socketPath: string; exportName: string }, cause: unknown): CopierError {
  const said = cause instanceof Error ? cause.message : String(cause);
  return new CopierError('job-lost', `export "${source.exportName}" of ${source.socketPath} is gone: ${said}`, {
    cause,
  });
}

/** Decides how each cluster is stored. Compressed ones lie in `packed`, one behind the other, in order. */
function measure(
  { clusterBytes, compression }: CopySegmentTask,
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
  { clusterBytes }: CopySegmentTask,
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
