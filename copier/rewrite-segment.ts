import { Qcow2Error } from '../qcow2/qcow2-error.ts';
import { altered, openStored } from './chain-source.ts';
import { Fingerprint } from './fingerprint.ts';
import { gatherRun, pieceRuns } from './piece-runs.ts';
import { readSegments, type StoredStretch } from './read-segments.ts';
import { PIECE_FIELDS, pieceAt } from './restore-pieces.ts';
import { segmentMemory, storeClusters, type StoreClusters, type WrittenSegment } from './store-clusters.ts';
import type { TaskHandler, ThreadContext, ThreadTask } from './thread-task.ts';

/** Clusters that one segment of a stored file holds. */
export interface StoredClusters extends StoredStretch {
  /** Of the file that is read. */
  from: { clusterBytes: number; compression: 'deflate' | 'zstd' };
  /** Where in the file each piece lies; its destination is its place in `guests`, in bytes. */
  pieces: Float64Array;
  /** Clusters of the disk, as numbers, that the pieces fill; at most `SEGMENT_BYTES` of them. */
  guests: Uint32Array;
  /** Of `guests`. */
  clusterBytes: number;
}

export interface RewriteSegmentTask extends ThreadTask, StoredClusters, StoreClusters {
  kind: 'rewrite-segment';
}

export interface RewrittenSegment extends WrittenSegment {
  fingerprint: Uint8Array;
}

/**
 * Reads one segment, compares its hash, and stores the clusters it holds anew.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export const handle: TaskHandler<RewriteSegmentTask, RewrittenSegment> = async (task, context) => {
  const memory = segmentMemory(task, context);
  const fingerprint = await readClusters(task, task.copy, memory.subarray(task.clusterBytes), context);
  return { ...(await storeClusters(task, memory, task.guests.length, context)), fingerprint };
};

/** Reads clusters into `into`, one behind the other; what is read for it is kept under `name`. Returns their fingerprint. */
export async function readClusters(
  task: StoredClusters,
  name: string,
  into: Buffer,
  context: ThreadContext,
): Promise<Uint8Array> {
  const { blobKey } = task.source;
  const { pieces, from, clusterBytes } = task;
  const source = await context.resource(`${name}/source:${blobKey}`, () => openStored(task.source));
  const read = await readSegments(source, task, context);
  try {
    for (const run of pieceRuns(pieces)) {
      const place = into.subarray(run.destinationOffset, run.destinationOffset + run.lengthBytes);
      gatherRun(run, { pieces, ...from }, read, place);
    }
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    throw altered(blobKey, `segment at ${task.segment.offset} ${error.message}`, error);
  }
  for (let index = 0; index < pieces.length / PIECE_FIELDS; index += 1) {
    const { destinationOffset, lengthBytes } = pieceAt(pieces, index);
    const end = destinationOffset + lengthBytes;
    into.fill(0, end, Math.ceil(end / clusterBytes) * clusterBytes); // past the end of the disk
  }
  const fingerprint = new Fingerprint();
  fingerprint.addClusters(into, task.guests, clusterBytes);
  return fingerprint.bytes();
}
