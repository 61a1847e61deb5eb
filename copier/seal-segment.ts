import { createHash } from 'node:crypto';
import type { BlobSourceDescriptor } from '../repository/blob-store.ts';
import { sealChunks } from '../repository/age-file.ts';
import { openSink } from '../repository/sink.ts';
import { openStored, readSegment } from './chain-source.ts';
import { WRITE_ALIGNMENT } from './place-clusters.ts';
import type { PutPlace } from './put-stretches.ts';
import type { SealStretch } from './seal-stretches.ts';
import { SEGMENT_BYTES, type TaskHandler, type ThreadContext, type ThreadTask } from './thread-task.ts';

export interface SealSegmentTask extends ThreadTask {
  kind: 'seal-segment';
  /** Of the plain file. */
  source: BlobSourceDescriptor;
  stretch: SealStretch;
  /** What comes before its first chunk: the file's head, or nothing. */
  head: Uint8Array;
  /** Secret. */
  payloadKey: Uint8Array;
  to: PutPlace;
  /** Prefix of the resources that the caller releases. */
  resources: string;
}

/** Head, tags, and a place in a page. */
const SEALED_BYTES = SEGMENT_BYTES + 1024 * 1024;

/**
 * Reads the plain segments that a sealed one is made of, compares their hashes, seals what is its own of them, and puts it in
 * its place. Returns the SHA-256 of the sealed bytes, hex.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export const handle: TaskHandler<SealSegmentTask, string> = async (task, context) => {
  const { stretch, head, payloadKey, to, resources } = task;
  const plain = await readPlain(task, context);
  const room =
    to.kind === 'memory'
      ? Buffer.from(to.buffer, to.at, stretch.lengthBytes)
      : context
          .buffer(SEALED_BYTES)
          .subarray(stretch.offset % WRITE_ALIGNMENT)
          .subarray(0, stretch.lengthBytes);
  room.set(head);
  sealChunks(payloadKey, plain, stretch, room.subarray(head.length));
  const sha256 = createHash('sha256').update(room).digest('hex');
  context.signal.throwIfAborted();
  if (to.kind === 'file') {
    const sink = await context.resource(`${resources}sink`, () => openSink(to.sink));
    await sink.write(stretch.offset, room);
  }
  return sha256;
};

async function readPlain(
  { source: descriptor, stretch, resources }: SealSegmentTask,
  context: ThreadContext,
): Promise<Buffer> {
  const { plainOffset, plainBytes, from } = stretch;
  const source = await context.resource(`${resources}source`, () => openStored(descriptor));
  const plain = context.buffer().subarray(0, plainBytes);
  const longest = Math.max(SEGMENT_BYTES, ...from.map(({ lengthBytes }) => lengthBytes));
  const buffer = context.buffer(Math.ceil(longest / MEBIBYTE) * MEBIBYTE); // few sizes, so that it is found again
  for (const segment of from) {
    const bytes = await readSegment(source, { source: descriptor }, segment, buffer);
    context.signal.throwIfAborted();
    const start = Math.max(0, plainOffset - segment.offset);
    const own = bytes.subarray(start, plainOffset + plainBytes - segment.offset);
    own.copy(plain, segment.offset + start - plainOffset);
  }
  return plain;
}

const MEBIBYTE = 1024 * 1024;
