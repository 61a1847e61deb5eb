import { createHash } from 'node:crypto';
import type { BlobSourceDescriptor } from '../repository/blob-store.ts';
import { openSink } from '../repository/sink.ts';
import { openStored, readSegment } from './chain-source.ts';
import type { OpenedEncryption } from './contract.ts';
import { formOf } from './file-form.ts';
import { imageOffset } from './image-segments.ts';
import { WRITE_ALIGNMENT } from './place-clusters.ts';
import type { PutPlace } from './put-stretches.ts';
import type { RecryptStretch } from './recrypt-stretches.ts';
import { SEGMENT_BYTES, type TaskHandler, type ThreadContext, type ThreadTask } from './thread-task.ts';

export interface RecryptSegmentTask extends ThreadTask {
  kind: 'recrypt-segment';
  /** Of the stored file. */
  source: BlobSourceDescriptor;
  /** Of the stored file, where it is encrypted. */
  encryption?: OpenedEncryption | undefined;
  stretch: RecryptStretch;
  /** What comes before its first chunk: the new file's head, or nothing. */
  head: Uint8Array;
  /** Of the new file, where it is encrypted; secret. */
  payloadKey?: Uint8Array | undefined;
  to: PutPlace;
  /** Prefix of the resources that the caller releases. */
  resources: string;
}

/** Head, tags, and a place in a page. */
const RECRYPTED_BYTES = SEGMENT_BYTES + 1024 * 1024;

/**
 * Reads the stored segments that a new one is made of, compares their hashes, opens and seals what is its own of them in memory,
 * and puts it in its place. Returns the SHA-256 of the new bytes, hex.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError
 */
export const handle: TaskHandler<RecryptSegmentTask, string> = async (task, context) => {
  const { stretch, head, payloadKey, to, resources } = task;
  const plain = await readPlain(task, context);
  const room =
    to.kind === 'memory'
      ? Buffer.from(to.buffer, to.at, stretch.lengthBytes)
      : context
          .buffer(RECRYPTED_BYTES)
          .subarray(stretch.offset % WRITE_ALIGNMENT)
          .subarray(0, stretch.lengthBytes);
  room.set(head);
  const payload = room.subarray(head.length);
  const written = formOf(payloadKey).seal(plain, stretch, payload);
  if (written === plain) payload.set(plain); // nothing was sealed
  const sha256 = createHash('sha256').update(room).digest('hex');
  context.signal.throwIfAborted();
  if (to.kind === 'file') {
    const sink = await context.resource(`${resources}sink`, () => openSink(to.sink));
    await sink.write(stretch.offset, room);
  }
  return sha256;
};

async function readPlain(
  { source: descriptor, encryption, stretch, resources }: RecryptSegmentTask,
  context: ThreadContext,
): Promise<Buffer> {
  const { plainOffset, plainBytes, from } = stretch;
  const source = await context.resource(`${resources}source`, () => openStored(descriptor));
  const plain = context.buffer().subarray(0, plainBytes);
  const longest = Math.max(SEGMENT_BYTES, ...from.map(({ lengthBytes }) => lengthBytes));
  const buffer = context.buffer(Math.ceil(longest / MEBIBYTE) * MEBIBYTE); // few sizes, so that it is found again
  for (const segment of from) {
    const bytes = await readSegment(source, { source: descriptor, encryption }, segment, buffer, context.signal);
    context.signal.throwIfAborted();
    const offset = imageOffset(segment, encryption);
    const start = Math.max(0, plainOffset - offset);
    const own = bytes.subarray(start, plainOffset + plainBytes - offset);
    own.copy(plain, offset + start - plainOffset);
  }
  return plain;
}

const MEBIBYTE = 1024 * 1024;
