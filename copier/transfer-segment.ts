import { createHash } from 'node:crypto';
import type { BlobSinkDescriptor, BlobSource, BlobSourceDescriptor } from '../repository/blob-store.ts';
import { openSink } from '../repository/sink.ts';
import { openSource } from '../repository/source.ts';
import { openStored, readSegment } from './chain-source.ts';
import type { SegmentSum } from './contract.ts';
import { SEGMENT_BYTES, type TaskHandler, type ThreadTask } from './thread-task.ts';

export interface TransferSegmentTask extends ThreadTask {
  kind: 'transfer-segment';
  source: BlobSourceDescriptor;
  segment: SegmentSum;
  /**
   * A file, in which it gets the same offset; `resumed`: an earlier attempt may have written it, so that it is looked at first.
   * Or memory that is shared with the one who stores it.
   */
  to:
    | { kind: 'file'; sink: BlobSinkDescriptor; resumed: boolean }
    | { kind: 'memory'; buffer: SharedArrayBuffer; at: number };
  /** Prefix of the resources that the caller releases. */
  resources: string;
}

/**
 * Puts one stored segment somewhere else as it is, once its hash is right. Returns the bytes that were put: none where they
 * were there.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export const handle: TaskHandler<TransferSegmentTask, number> = async (task, context) => {
  const { segment, to, resources } = task;
  const buffer = context.buffer(bufferBytes(segment.lengthBytes));
  if (to.kind === 'file' && to.resumed) {
    const written = await context.resource(`${resources}written`, () => openSource(to.sink));
    if (await holds(written, segment, buffer)) return 0;
  }
  context.signal.throwIfAborted();
  const source = await context.resource(`${resources}source`, () => openStored(task.source));
  const bytes = await readSegment(source, { source: task.source }, segment, buffer, context.signal); // as stored: without a key
  context.signal.throwIfAborted();
  if (to.kind === 'memory') {
    bytes.copy(Buffer.from(to.buffer, to.at, bytes.length));
  } else {
    const sink = await context.resource(`${resources}sink`, () => openSink(to.sink));
    await sink.write(segment.offset, bytes);
  }
  return bytes.length;
};

async function holds(written: BlobSource, segment: SegmentSum, buffer: Buffer): Promise<boolean> {
  const bytes = buffer.subarray(0, segment.lengthBytes);
  const count = await written.read(segment.offset, bytes);
  return count === bytes.length && createHash('sha256').update(bytes).digest('hex') === segment.sha256;
}

/** Few sizes, so that threads find their buffers again. */
const bufferBytes = (neededBytes: number): number =>
  Math.max(SEGMENT_BYTES, Math.ceil(neededBytes / MEBIBYTE) * MEBIBYTE);
const MEBIBYTE = 1024 * 1024;
