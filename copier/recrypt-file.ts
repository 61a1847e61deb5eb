import { randomUUID } from 'node:crypto';
import { createAgeHead } from '../repository/age-head.ts';
import { checkSegments, checkSize, isRemote, openStored } from './chain-source.ts';
import type { RecryptOptions, RecryptResult } from './contract.ts';
import { PLAIN_FORM, sealedForm } from './file-form.ts';
import { imageBytes } from './image-segments.ts';
import { ProgressThrottle } from './progress-throttle.ts';
import { putStretches } from './put-stretches.ts';
import type { RecryptSegmentTask } from './recrypt-segment.ts';
import { cutAnew } from './recrypt-stretches.ts';
import type { ThreadPool } from './thread-pool.ts';

/**
 * Writes a stored file into another place in another form: see `CopierPool.recryptFile`. In memory are as many segments as
 * threads have tasks, or a few parts.
 * @throws CopierError `integrity` with file and offset, `file-missing`; BlobStoreError; the signal's reason
 */
export async function recryptFile(
  threads: ThreadPool,
  { file, sink, recipient, pace, signal, onProgress }: RecryptOptions,
): Promise<RecryptResult> {
  const { source, encryption } = file;
  checkSegments(file);
  {
    await using opened = await openStored(source);
    await checkSize(opened, file);
  }
  const key = recipient === undefined ? undefined : await createAgeHead(recipient);
  const form = key === undefined ? PLAIN_FORM : sealedForm(key);
  const stretches = cutAnew(file, form);
  const hashes = new Map<number, string>();
  const resources = `recrypt:${randomUUID()}:`;
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
        const task: RecryptSegmentTask = {
          kind: 'recrypt-segment',
          source,
          encryption,
          stretch,
          head: stretch.offset === 0 ? form.head : new Uint8Array(0),
          payloadKey: key?.payloadKey,
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
    if (sha256 === undefined) throw new Error(`the segment at ${offset} of ${sink.blobKey} was not written`);
    return { offset, lengthBytes, sha256 };
  });
  const plainBytes = imageBytes(file);
  return { storedBytes: form.storedLength(plainBytes), plainBytes, segments };
}
