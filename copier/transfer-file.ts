import { randomUUID } from 'node:crypto';
import type { BlobSinkDescriptor, PartSink } from '../repository/blob-store.ts';
import { checkSegments, checkSize, isRemote, openStored } from './chain-source.ts';
import type { SegmentSum, TransferOptions, TransferResult } from './contract.ts';
import { inFlight } from './in-flight.ts';
import { ProgressThrottle } from './progress-throttle.ts';
import type { ThreadPool } from './thread-pool.ts';
import { cutParts } from './transfer-parts.ts';
import type { TransferSegmentTask } from './transfer-segment.ts';

/** Each is in memory until it is stored. */
const PARTS_IN_FLIGHT = 4;

/** Puts segments somewhere; the bytes that were not there. */
type Put = (segment: SegmentSum, to: TransferSegmentTask['to'], signal: AbortSignal) => Promise<number>;

/**
 * Writes a stored file into another place, byte for byte: see `CopierPool.transferFile`. In memory are as many segments as
 * threads have tasks, or a few parts.
 * @throws CopierError `integrity` with file and offset, `file-missing`; BlobStoreError; the signal's reason
 */
export async function transferFile(
  threads: ThreadPool,
  { file, sink, resumed, pace, signal, onProgress }: TransferOptions,
): Promise<TransferResult> {
  const { source, segments } = file;
  checkSegments(file);
  {
    await using opened = await openStored(source);
    await checkSize(opened, file);
  }
  const resources = `transfer:${randomUUID()}:`;
  const stopped = new AbortController();
  const stop = (reason: unknown): void => stopped.abort(reason);
  const either = AbortSignal.any([signal, stopped.signal]);
  let doneBytes = 0;
  const progress = new ProgressThrottle(() => onProgress?.(doneBytes));
  const done = (bytes: number): void => {
    doneBytes += bytes;
    progress.tick();
  };
  const put: Put = async (segment, to, within) => {
    await pace?.ready(within);
    pace?.passed(segment.lengthBytes);
    const task: TransferSegmentTask = { kind: 'transfer-segment', source, segment, to, resources };
    return await threads.run<number>(task, { signal: within, isRemote: isRemote(source) });
  };
  try {
    const writtenBytes =
      sink.kind === 'parts'
        ? await putParts(segments, { sink, resumed, signal: either, stop, done, put })
        : await putSegments(segments, {
            sink,
            resumed,
            limit: threads.capacity({ isRemote: isRemote(source) }) + 2,
            signal: either,
            stop,
            done,
            put,
          });
    signal.throwIfAborted();
    progress.end();
    return { writtenBytes };
  } finally {
    await threads.release(resources);
  }
}

interface Way {
  resumed: boolean;
  signal: AbortSignal;
  stop: (reason: unknown) => void;
  done: (bytes: number) => void;
  put: Put;
}

async function putSegments(
  segments: readonly SegmentSum[],
  { sink, resumed, limit, signal, stop, done, put }: Way & { sink: BlobSinkDescriptor; limit: number },
): Promise<number> {
  let writtenBytes = 0;
  await inFlight(segments, {
    limit,
    stop,
    work: async (segment) => {
      const bytes = await put(segment, { kind: 'file', sink, resumed }, signal);
      writtenBytes += bytes; // read only now: others add to it meanwhile
      done(segment.lengthBytes);
    },
  });
  return writtenBytes;
}

/** A part that is stored at its length is not stored again: the server compared its bytes when it came. */
async function putParts(
  segments: readonly SegmentSum[],
  { sink, resumed, signal, stop, done, put }: Way & { sink: PartSink },
): Promise<number> {
  const stored = resumed ? await sink.storedParts() : new Map<number, number>();
  let writtenBytes = 0;
  await inFlight(cutParts(segments, sink), {
    limit: PARTS_IN_FLIGHT,
    stop,
    work: async (part) => {
      if (stored.get(part.number) === part.lengthBytes) {
        done(part.lengthBytes);
        return;
      }
      const buffer = new SharedArrayBuffer(part.lengthBytes);
      const puts = part.segments.map((segment) =>
        put(segment, { kind: 'memory', buffer, at: segment.offset - part.offset }, signal),
      );
      const failed = (await Promise.allSettled(puts)).find((outcome) => outcome.status === 'rejected');
      if (failed) throw failed.reason;
      await sink.putPart(part.number, Buffer.from(buffer), { signal });
      writtenBytes += part.lengthBytes;
      done(part.lengthBytes);
    },
  });
  return writtenBytes;
}
