import { randomUUID } from 'node:crypto';
import { storedLength } from '../repository/age-file.ts';
import { createAgeHead } from '../repository/age-head.ts';
import { checkSegments, checkSize, isRemote, openStored } from './chain-source.ts';
import type { SealOptions, SealResult } from './contract.ts';
import { ProgressThrottle } from './progress-throttle.ts';
import { putStretches } from './put-stretches.ts';
import type { SealSegmentTask } from './seal-segment.ts';
import { cutSealed } from './seal-stretches.ts';
import type { ThreadPool } from './thread-pool.ts';

/**
 * Writes a stored file into another place, encrypted: see `CopierPool.sealFile`. In memory are as many segments as threads have
 * tasks, or a few parts.
 * @throws CopierError `integrity` with file and offset, `file-missing`; BlobStoreError; the signal's reason
 */
export async function sealFile(
  threads: ThreadPool,
  { file, sink, recipient, pace, signal, onProgress }: SealOptions,
): Promise<SealResult> {
  const { source, storedBytes: plainBytes } = file;
  checkSegments(file);
  {
    await using opened = await openStored(source);
    await checkSize(opened, file);
  }
  const { head, payloadKey } = await createAgeHead(recipient);
  const stretches = cutSealed(file.segments);
  const hashes = new Map<number, string>();
  const resources = `seal:${randomUUID()}:`;
  const stopped = new AbortController();
  let doneBytes = 0;
  const progress = new ProgressThrottle(() => onProgress?.(doneBytes));
  try {
    await putStretches(stretches, sink, {
      resumed: false,
      limit: threads.capacity({ isRemote: isRemote(source) }) + 2,
      signal: AbortSignal.any([signal, stopped.signal]),
      stop: (reason) => stopped.abort(reason),
      done: (bytes) => {
        doneBytes += bytes;
        progress.tick();
      },
      put: async (stretch, to, within) => {
        await pace?.ready(within);
        pace?.passed(stretch.lengthBytes);
        const task: SealSegmentTask = {
          kind: 'seal-segment',
          source,
          stretch,
          head: stretch.offset === 0 ? head : new Uint8Array(0),
          payloadKey,
          to,
          resources,
        };
        hashes.set(stretch.offset, await threads.run<string>(task, { signal: within, isRemote: isRemote(source) }));
        return stretch.lengthBytes;
      },
    });
    signal.throwIfAborted();
    progress.end();
  } finally {
    await threads.release(resources);
  }
  const segments = stretches.map(({ offset, lengthBytes }) => {
    const sha256 = hashes.get(offset);
    if (sha256 === undefined) throw new Error(`the segment at ${offset} of ${sink.blobKey} was not sealed`);
    return { offset, lengthBytes, sha256 };
  });
  return { storedBytes: storedLength(plainBytes), plainBytes, segments };
}
