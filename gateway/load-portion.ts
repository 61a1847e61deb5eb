import { altered, openStored, readSegment } from '../copier/chain-source.ts';
import { gatherRun } from '../copier/piece-runs.ts';
import { PIECE_FIELDS } from '../copier/restore-pieces.ts';
import { readSegments, type StoredStretch } from '../copier/read-segments.ts';
import type { TaskHandler, ThreadTask } from '../copier/thread-task.ts';
import { Qcow2Error } from '../qcow2/qcow2-error.ts';
import { BlobStoreError, type BlobSource } from '../repository/blob-store.ts';
import type { Portion } from './portions.ts';
import { keepingSource, type KeptSegments } from './segment-folder.ts';

export interface LoadPortionTask extends ThreadTask, StoredStretch, Pick<Portion, 'pieces' | 'isAsStored'> {
  kind: 'load-portion';
  clusterBytes: number;
  compression: 'deflate' | 'zstd';
  /** Memory of the portion's length, which the main thread gives out once this has succeeded. */
  into: Uint8Array<SharedArrayBuffer>;
  /** Where stored segments are kept; undefined: nowhere. */
  kept: KeptSegments | undefined;
  /** What has to be read from the repository is kept. */
  isKept: boolean;
}

/**
 * Reads the segments of a portion whole, compares their hashes, opens them where the file is encrypted, and decompresses
 * what the guest sees of them.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export const handle: TaskHandler<LoadPortionTask, undefined> = async (task, context) => {
  const { source: descriptor, segment, kept, isKept, isAsStored, pieces } = task;
  const key = `source:${descriptor.blobKey}`;
  let opened: BlobSource | undefined;
  const stored = async (): Promise<BlobSource> => (opened = await context.resource(key, () => openStored(descriptor)));
  const into = Buffer.from(task.into.buffer, task.into.byteOffset, task.into.length);
  try {
    const segments = [segment, ...task.following];
    const source = kept === undefined ? await stored() : keepingSource(stored, segments, kept, isKept);
    if (isAsStored) {
      await readSegment(source, task, segment, into, context.signal);
      return undefined;
    }
    const read = await readSegments(source, task, context);
    gatherRun({ from: 0, to: pieces.length / PIECE_FIELDS }, task, read, into);
    return undefined;
  } catch (error) {
    if (error instanceof Qcow2Error) {
      throw altered(descriptor.blobKey, `segment at ${segment.offset} ${error.message}`, error);
    }
    // What is open may belong to a file system that was mounted anew since.
    if (error instanceof BlobStoreError && opened !== undefined) await context.dropResource(key, opened);
    throw error;
  }
};
