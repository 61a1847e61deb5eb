import { randomUUID } from 'node:crypto';
import { checkSegments, checkSize, isRemote, openStored } from './chain-source.ts';
import type { ChainFile } from './contract.ts';
import { inFlight } from './in-flight.ts';
import type { Pace } from './pace.ts';
import type { ThreadPool } from './thread-pool.ts';
import type { VerifySegmentTask } from './verify-segment.ts';

/**
 * Reads every segment of a stored file once and compares its hash, and its length.
 * @throws CopierError `integrity` with file and offset, `file-missing`; BlobStoreError; the signal's reason
 */
export async function verifyFile(
  threads: ThreadPool,
  file: ChainFile,
  { signal, pace, onProgress }: { signal: AbortSignal; pace?: Pace; onProgress?: (verifiedBytes: number) => void },
): Promise<void> {
  checkSegments(file);
  {
    await using source = await openStored(file.source);
    await checkSize(source, file);
  }
  const resources = `verify:${randomUUID()}:`;
  const stopped = new AbortController();
  const either = AbortSignal.any([signal, stopped.signal]);
  let verifiedBytes = 0;
  try {
    await inFlight(file.segments, {
      limit: threads.capacity({ isRemote: isRemote(file.source) }) + 2,
      stop: (reason) => stopped.abort(reason),
      work: async (segment) => {
        const task: VerifySegmentTask = { kind: 'verify-segment', source: file.source, segment, resources };
        await pace?.ready(either);
        pace?.passed(segment.lengthBytes);
        await threads.run(task, { signal: either, isRemote: isRemote(file.source) });
        verifiedBytes += segment.lengthBytes;
        onProgress?.(verifiedBytes);
      },
    });
  } finally {
    await threads.release(resources);
  }
}
