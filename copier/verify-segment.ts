import { createHash } from 'node:crypto';
import type { BlobSourceDescriptor } from '../repository/blob-store.ts';
import { altered, compareHash, openStored } from './chain-source.ts';
import type { SegmentSum } from './contract.ts';
import { SEGMENT_BYTES } from './thread-task.ts';
import type { TaskHandler, ThreadTask } from './thread-task.ts';

export interface VerifySegmentTask extends ThreadTask {
  kind: 'verify-segment';
  source: BlobSourceDescriptor;
  segment: SegmentSum;
  /** Prefix of the resources that the caller releases. */
  resources: string;
}

/** Reads one segment and compares its hash; any length. @throws CopierError `integrity`, `file-missing`; BlobStoreError */
export const handle: TaskHandler<VerifySegmentTask, undefined> = async (task, context) => {
  const { blobKey } = task.source;
  const { offset, lengthBytes } = task.segment;
  const source = await context.resource(`${task.resources}source:${blobKey}`, () => openStored(task.source));
  const buffer = context.buffer();
  const hash = createHash('sha256');
  for (let done = 0; done < lengthBytes;) {
    context.signal.throwIfAborted();
    const bytes = buffer.subarray(0, Math.min(SEGMENT_BYTES, lengthBytes - done));
    const count = await source.read(offset + done, bytes, { signal: context.signal });
    if (count !== bytes.length) throw altered(blobKey, `the file ends at ${offset + done + count}`);
    hash.update(bytes);
    done += count;
  }
  compareHash(blobKey, task.segment, hash.digest('hex'));
  return undefined;
};
