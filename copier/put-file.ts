import { randomUUID } from 'node:crypto';
import { checkSegments, checkSize, isRemote, openStored } from './chain-source.ts';
import type { TransferOptions } from './contract.ts';
import { ProgressThrottle } from './progress-throttle.ts';
import { putStretches, type PutPlace } from './put-stretches.ts';
import type { ThreadPool } from './thread-pool.ts';
import type { ThreadTask } from './thread-task.ts';
import type { Stretch } from './transfer-parts.ts';

/** How a stored file gets into another place. */
export interface PutWork<S extends Stretch, R> {
  /** Cuts the new file, without gap. Called when the stored one was looked at. */
  stretches: () => readonly S[];
  /** The task of a thread that reads one and puts it. @param resources prefix of what the thread keeps open for the file */
  taskOf: (stretch: S, to: PutPlace, resources: string) => ThreadTask;
  /** Told what the task returned. Returns the bytes that were not in their place before. */
  isPut: (stretch: S, result: R) => number;
}

/**
 * Writes what a stored file holds into another place, each stretch by a task of a thread. In memory are as many stretches as
 * threads have tasks, or a few parts. Returns the bytes that were written.
 * @throws CopierError `integrity` with file and offset, `file-missing`; BlobStoreError; the signal's reason
 */
export async function putFile<S extends Stretch, R>(
  threads: ThreadPool,
  { file, sink, resumed, pace, signal, onProgress }: TransferOptions,
  { stretches, taskOf, isPut }: PutWork<S, R>,
): Promise<number> {
  const { source } = file;
  const far = isRemote(source);
  checkSegments(file);
  {
    await using opened = await openStored(source);
    await checkSize(opened, file);
  }
  const resources = `put:${randomUUID()}:`;
  const stopped = new AbortController();
  let doneBytes = 0;
  const progress = new ProgressThrottle(() => onProgress?.(doneBytes));
  try {
    const writtenBytes = await putStretches(stretches(), sink, {
      resumed,
      limit: threads.capacity({ isRemote: far }) + 2,
      signal: AbortSignal.any([signal, stopped.signal]),
      stop: (reason) => stopped.abort(reason),
      done: (bytes) => {
        doneBytes += bytes;
        progress.tick();
      },
      put: async (stretch, to, within) => {
        await pace?.ready(within);
        pace?.passed(stretch.lengthBytes);
        const task = taskOf(stretch, to, resources);
        return isPut(stretch, await threads.run<R>(task, { signal: within, isRemote: far }));
      },
    });
    signal.throwIfAborted();
    progress.end();
    return writtenBytes;
  } finally {
    await threads.release(resources);
  }
}
