import { randomUUID } from 'node:crypto';
import { checkSegments, checkSize, isRemote, openStored } from './chain-source.ts';
import type { TransferOptions, TransferResult } from './contract.ts';
import { ProgressThrottle } from './progress-throttle.ts';
import { putStretches } from './put-stretches.ts';
import type { ThreadPool } from './thread-pool.ts';
import type { TransferSegmentTask } from './transfer-segment.ts';

/**
 * Writes a stored file into another place, byte for byte: see `CopierPool.transferFile`. In memory are as many segments as
 * threads have tasks, or a few parts.
 * @throws CopierError `integrity` with file and offset, `file-missing`; BlobStoreError; the signal's reason
 */
export async function transferFile(
  threads: ThreadPool,
  { file, sink, resumed, pace, signal, onProgress }: TransferOptions,
): Promise<TransferResult> {
  const { source, segments } = file;
  checkSegments(file);
  {
    await using opened = await openStored(source);
    await checkSize(opened, file);
  }
  const resources = `transfer:${randomUUID()}:`;
  const stopped = new AbortController();
  let doneBytes = 0;
  const progress = new ProgressThrottle(() => onProgress?.(doneBytes));
  try {
    const writtenBytes = await putStretches(segments, sink, {
      resumed,
      limit: threads.capacity({ isRemote: isRemote(source) }) + 2,
      signal: AbortSignal.any([signal, stopped.signal]),
      stop: (reason) => stopped.abort(reason),
      done: (bytes) => {
        doneBytes += bytes;
        progress.tick();
      },
      put: async (segment, to, within) => {
        await pace?.ready(within);
        pace?.passed(segment.lengthBytes);
        const task: TransferSegmentTask = {
          kind: 'transfer-segment',
          source,
          segment,
          to: to.kind === 'file' ? { ...to, resumed } : to,
          resources,
        };
        return await threads.run<number>(task, { signal: within, isRemote: isRemote(source) });
      },
    });
    signal.throwIfAborted();
    progress.end();
    return { writtenBytes };
  } finally {
    await threads.release(resources);
  }
}
