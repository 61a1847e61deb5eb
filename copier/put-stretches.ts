import type { BlobSinkDescriptor, PartSink } from '../repository/blob-store.ts';
import { inFlight } from './in-flight.ts';
import { cutParts, type Stretch } from './transfer-parts.ts';

/** Each is in memory until it is stored. */
const PARTS_IN_FLIGHT = 4;

/** Where a thread puts the bytes of a stretch: in the file, at the same offset, or in memory that is shared with the one who stores it. */
export type PutPlace =
  { kind: 'file'; sink: BlobSinkDescriptor } | { kind: 'memory'; buffer: SharedArrayBuffer; at: number };

export interface PutOptions<S extends Stretch> {
  /** An earlier attempt began: parts that are stored are not put again. */
  resumed: boolean;
  /** Stretches that are put into a file at once. */
  limit: number;
  signal: AbortSignal;
  stop: (reason: unknown) => void;
  /** So many bytes more are in their place. */
  done: (bytes: number) => void;
  /** Puts one stretch; the bytes that were not there. */
  put: (stretch: S, to: PutPlace, signal: AbortSignal) => Promise<number>;
}

/** Puts all stretches of a file into an upload. Returns the bytes that were written. */
export const putStretches = <S extends Stretch>(
  stretches: readonly S[],
  sink: BlobSinkDescriptor | PartSink,
  options: PutOptions<S>,
): Promise<number> =>
  sink.kind === 'parts' ? putParts(stretches, sink, options) : putIntoFile(stretches, sink, options);

async function putIntoFile<S extends Stretch>(
  stretches: readonly S[],
  sink: BlobSinkDescriptor,
  { limit, signal, stop, done, put }: PutOptions<S>,
): Promise<number> {
  let writtenBytes = 0;
  await inFlight(stretches, {
    limit,
    stop,
    work: async (stretch) => {
      const bytes = await put(stretch, { kind: 'file', sink }, signal);
      writtenBytes += bytes; // read only now: others add to it meanwhile
      done(stretch.lengthBytes);
    },
  });
  return writtenBytes;
}

/** A part that is stored at its length is not stored again: the server compared its bytes when it came. */
async function putParts<S extends Stretch>(
  stretches: readonly S[],
  sink: PartSink,
  { resumed, signal, stop, done, put }: PutOptions<S>,
): Promise<number> {
  const stored = resumed ? await sink.storedParts() : new Map<number, number>();
  let writtenBytes = 0;
  await inFlight(cutParts(stretches, sink), {
    limit: PARTS_IN_FLIGHT,
    stop,
    work: async (part) => {
      if (stored.get(part.number) === part.lengthBytes) {
        done(part.lengthBytes);
        return;
      }
      const buffer = new SharedArrayBuffer(part.lengthBytes);
      const puts = part.segments.map((stretch) =>
        put(stretch, { kind: 'memory', buffer, at: stretch.offset - part.offset }, signal),
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
