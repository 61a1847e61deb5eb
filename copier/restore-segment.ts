import { Qcow2Error } from '../qcow2/qcow2-error.ts';
import type { BlobSink } from '../repository/blob-store.ts';
import { altered, openStored } from './chain-source.ts';
import { openDestination } from './destination.ts';
import { gatherRun, pieceRuns } from './piece-runs.ts';
import { readSegments, type StoredStretch } from './read-segments.ts';
import type { TaskHandler, ThreadContext, ThreadTask } from './thread-task.ts';

export interface RestoreSegmentTask extends ThreadTask, StoredStretch {
  kind: 'restore-segment';
  /** See `PieceList`; in guest order. */
  pieces: Float64Array;
  clusterBytes: number;
  compression: 'deflate' | 'zstd';
  destinationPath: string;
  /** Prefix of the resources that the caller releases. */
  resources: string;
}

/**
 * Reads one segment, compares its hash, then writes what is wanted of it to where it goes.
 * @throws CopierError `integrity`, `file-missing`, `destination-full`; BlobStoreError
 */
export const handle: TaskHandler<RestoreSegmentTask, undefined> = async (task, context) => {
  const { blobKey } = task.source;
  const source = await context.resource(`${task.resources}source:${blobKey}`, () => openStored(task.source));
  const destination = await context.resource(`${task.resources}destination`, () =>
    openDestination(task.destinationPath),
  );
  const read = await readSegments(source, task, context);
  try {
    await writePieces(task, read, destination, context);
  } catch (error) {
    if (!(error instanceof Qcow2Error)) throw error;
    throw altered(blobKey, `segment at ${task.segment.offset} ${error.message}`, error);
  }
  return undefined;
};

/** Writes of one segment under way at once. One is the rule; in a raw destination there is one between any two gaps. */
const MOST_WRITES = 4;

async function writePieces(
  task: RestoreSegmentTask,
  { stored, storedOffset }: { stored: Buffer; storedOffset: number },
  destination: BlobSink,
  context: ThreadContext,
): Promise<void> {
  const writes: Promise<void>[] = [];
  let staging: Buffer | undefined;
  let staged = 0;
  try {
    for (const run of pieceRuns(task.pieces)) {
      const { plainOffset, lengthBytes, destinationOffset } = run;
      if (writes.length === MOST_WRITES || (staging && staged + lengthBytes > staging.length)) {
        await Promise.all(writes);
        writes.length = 0;
        staged = 0;
        context.signal.throwIfAborted();
      }
      let bytes: Buffer;
      if (plainOffset === undefined) {
        staging ??= context.buffer();
        bytes = staging.subarray(staged, staged + lengthBytes);
        staged += Math.ceil(lengthBytes / PAGE_BYTES) * PAGE_BYTES;
        gatherRun(run, task, { stored, storedOffset }, bytes);
      } else {
        bytes = stored.subarray(plainOffset - storedOffset, plainOffset - storedOffset + lengthBytes);
      }
      writes.push(destination.write(destinationOffset, bytes));
    }
    await Promise.all(writes);
  } finally {
    await Promise.allSettled(writes); // their buffers go to the next task
  }
}

/** Alignment for O_DIRECT. */
const PAGE_BYTES = 4096;
