import { connectNbd, type NbdConnection, type ReadRequest } from '../nbd/connection.ts';
import { NbdConnectionLost, NbdError, NbdRefused } from '../nbd/errors.ts';
import { CopierError } from './contract.ts';
import { segmentMemory, storeClusters, type StoreClusters, type WrittenSegment } from './store-clusters.ts';
import type { TaskHandler, ThreadContext, ThreadTask } from './thread-task.ts';

/** Reads some clusters of a frozen disk and stores them. Only numbers go back to the main thread. */
export interface CopySegmentTask extends ThreadTask, StoreClusters {
  kind: 'copy-segment';
  source: { socketPath: string; exportName: string; virtualSizeBytes: number };
  /** First cluster and count of each run, one after the other; together at most `SEGMENT_BYTES`. */
  runs: number[];
}

export interface CopiedSegment extends WrittenSegment {
  readBytes: number;
}

export const handle: TaskHandler<CopySegmentTask, CopiedSegment> = async (task, context) => {
  const { clusterBytes } = task;
  const memory = segmentMemory(task, context);
  const readBytes = await readRuns(task, context, memory.subarray(clusterBytes));
  return { ...(await storeClusters(task, memory, clusterCount(task.runs), context)), readBytes };
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
