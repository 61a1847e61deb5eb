import { randomUUID } from 'node:crypto';
import { encodeHeader } from '../qcow2/header.ts';
import type { Qcow2Layout } from '../qcow2/format.ts';
import { encodeTables } from '../qcow2/tables.ts';
import { isRemote } from './chain-source.ts';
import type { RestoreDiskOptions, RestoreResult } from './contract.ts';
import { checkSpace, createDestination, openDestination, removeDestination, syncDestination } from './destination.ts';
import { inFlight } from './in-flight.ts';
import { CLUSTER_BYTES, DESTINATION_CLUSTER_BITS, PlainQcow2Layout, RawLayout } from './restore-layout.ts';
import type { DestinationLayout } from './restore-layout.ts';
import { followingSegments, settlePieces } from './restore-pieces.ts';
import { planRestore } from './restore-plan.ts';
import type { PlannedFile } from './restore-plan.ts';
import type { RestoreSegmentTask } from './restore-segment.ts';
import { TaskBuffers } from './thread-buffers.ts';
import type { ThreadPool } from './thread-pool.ts';
import { SEGMENT_BYTES } from './thread-task.ts';
import type { VerifySegmentTask } from './verify-segment.ts';

/**
 * Restores a disk from its chain in one pass: each stored segment is read once and its hash compared before anything
 * of it is written; only what the guest sees is written, where it was planned to go. The destination is durable when
 * this returns, and gone when it throws.
 *
 * That a repository is not mounted looks like missing files here: ask the store first (`checkChainFiles`).
 * @throws CopierError `integrity`, `file-missing`, `destination-full`, `destination-exists`; BlobStoreError; the
 *   signal's reason
 */
export async function restoreDisk(threads: ThreadPool, options: RestoreDiskOptions): Promise<RestoreResult> {
  const { destination, virtualSizeBytes, chain, signal, onProgress } = options;
  signal.throwIfAborted();
  const layout = destination.format === 'qcow2' ? new PlainQcow2Layout() : new RawLayout();
  const planned = await planRestore(options, layout);
  const shape = { clusterBits: DESTINATION_CLUSTER_BITS, virtualSizeBytes };
  await checkSpace(destination.path, layout.dataBytes + layout.tableBytes(shape));
  await createDestination(destination.path, layout.dataEnd(shape));

  const totalBytes = chain.reduce((sum, file) => sum + file.storedBytes, 0);
  let verifiedBytes = 0;
  const progress = (lengthBytes: number) => {
    verifiedBytes += lengthBytes;
    onProgress?.({ verifiedBytes, totalBytes });
  };
  try {
    const limit = threads.capacity({ isRemote: chain.some(({ source }) => isRemote(source)) }) + 2;
    await writeData(threads, tasksOf(planned, layout, destination.path), { limit, signal, progress });
    const tableBytes =
      layout instanceof PlainQcow2Layout ? await writeTables(destination.path, layout, shape, signal) : 0;
    signal.throwIfAborted();
    await syncDestination(destination.path);
    return { verifiedBytes, writtenBytes: layout.dataBytes + tableBytes };
  } catch (error) {
    await removeDestination(destination.path);
    throw error;
  }
}

type SegmentTask = { task: RestoreSegmentTask | VerifySegmentTask | undefined; lengthBytes: number };

async function writeData(
  threads: ThreadPool,
  tasks: (resources: string) => Iterable<SegmentTask>,
  { limit, signal, progress }: { limit: number; signal: AbortSignal; progress: (lengthBytes: number) => void },
): Promise<void> {
  const resources = `restore:${randomUUID()}:`;
  const stopped = new AbortController();
  const either = AbortSignal.any([signal, stopped.signal]);
  try {
    await inFlight(tasks(resources), {
      limit,
      stop: (reason) => stopped.abort(reason),
      work: async ({ task, lengthBytes }) => {
        if (task) await threads.run(task, { signal: either, isRemote: isRemote(task.source) });
        progress(lengthBytes);
      },
    });
  } finally {
    await threads.release(resources);
  }
}

/** One task per segment of every file, base first; none for a segment that was hashed for its tables and has no data. */
const tasksOf = (planned: PlannedFile[], layout: DestinationLayout, destinationPath: string) =>
  function* (resources: string): Generator<SegmentTask> {
    for (const { file, pieces: list, verified, clusterBytes, compression } of planned) {
      const { source, segments, encryption } = file;
      const wanted = list.bySegment();
      let next = wanted.next();
      for (const [index, segment] of segments.entries()) {
        let task: SegmentTask['task'];
        if (!next.done && next.value.segment === index) {
          const pieces = settlePieces(next.value.pieces, layout);
          const common = { source, encryption, segment, destinationPath, resources };
          const reached = followingSegments(file, index, pieces);
          task = { kind: 'restore-segment', ...common, following: reached, pieces, clusterBytes, compression };
          next = wanted.next();
        } else if (!verified.has(index)) {
          task = { kind: 'verify-segment', source, segment, resources };
        }
        yield { task, lengthBytes: segment.lengthBytes };
      }
    }
  };

/** Writes tables and header behind and before the data. Returns their length. */
async function writeTables(
  path: string,
  layout: PlainQcow2Layout,
  shape: Qcow2Layout,
  signal: AbortSignal,
): Promise<number> {
  const buffers = new TaskBuffers();
  try {
    await using destination = await openDestination(path);
    const memory = buffers.take(SEGMENT_BYTES);
    const tables = encodeTables(shape, layout.clusters(), layout.tailOffset);
    let at = layout.tailOffset;
    let filled = 0;
    const flush = async () => {
      signal.throwIfAborted();
      await destination.write(at, memory.subarray(0, filled));
      at += filled;
      filled = 0;
    };
    let cluster = tables.next();
    for (; cluster.done !== true; cluster = tables.next()) {
      filled += cluster.value.copy(memory, filled);
      if (filled === memory.length) await flush();
    }
    await flush();
    const header = memory.subarray(0, CLUSTER_BYTES);
    encodeHeader({ ...shape, compression: 'none', tables: cluster.value }).copy(header);
    await destination.write(0, header);
    return at - layout.tailOffset + header.length;
  } finally {
    buffers.giveBack();
  }
}
