import { openStored, readSegment } from '../copier/chain-source.ts';
import type { ChainFile, SegmentSum } from '../copier/contract.ts';
import { Moved, type TaskHandler, type ThreadTask } from '../copier/thread-task.ts';
import { BlobStoreError } from '../repository/blob-store.ts';

export interface LoadSegmentTask extends ThreadTask {
  kind: 'load-segment';
  file: Pick<ChainFile, 'source' | 'encryption'>;
  segment: SegmentSum;
}

/**
 * Reads one stored segment whole, compares its hash, and opens it where the file is encrypted.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export const handle: TaskHandler<LoadSegmentTask, Moved<Uint8Array>> = async ({ file, segment }, context) => {
  const key = `source:${file.source.blobKey}`;
  const opened = await context.resource(key, () => openStored(file.source));
  try {
    const read = await readSegment(opened, file, segment, context.buffer(segment.lengthBytes), context.signal);
    const bytes = new Uint8Array(read); // the buffer stays with the thread
    return new Moved(bytes, [bytes.buffer]);
  } catch (error) {
    // What is open may belong to a file system that was mounted anew since.
    if (error instanceof BlobStoreError) await context.dropResource(key, opened);
    throw error;
  }
};
