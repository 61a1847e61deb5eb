import { readClusters, type StoredClusters } from './rewrite-segment.ts';
import { SEGMENT_BYTES, type TaskHandler, type ThreadTask } from './thread-task.ts';

export interface FingerprintSegmentTask extends ThreadTask, StoredClusters {
  kind: 'fingerprint-segment';
  /** Prefix of the resources that the caller releases. */
  name: string;
}

/**
 * Reads one segment, compares its hash, and tells what it holds for the guest.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export const handle: TaskHandler<FingerprintSegmentTask, Uint8Array> = (task, context) =>
  readClusters(task, task.name, context.buffer(SEGMENT_BYTES), context);
