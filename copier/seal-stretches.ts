import { AGE_HEAD_BYTES, CHUNK_BYTES, sealedLength, storedOffset } from '../repository/age-file.ts';
import type { SegmentSum } from './contract.ts';
import { SEGMENT_BYTES } from './thread-task.ts';
import type { Stretch } from './transfer-parts.ts';

/** A segment of a sealed file, and what it is made of. Offset and length are of the sealed file; the first has its head. */
export interface SealStretch extends Stretch {
  plainOffset: number;
  plainBytes: number;
  /** Reaches to the end of the plain file. */
  isEnd: boolean;
  /** Segments of the plain file that hold its bytes, in order: at the borders some that hold others' too. */
  from: SegmentSum[];
}

/**
 * Cuts a plain file into the segments of a sealed one: whole chunks, at most `SEGMENT_BYTES` of plain bytes. They end where
 * a segment of the plain file ends, if there is one in their second half: less is read twice.
 * @param segments of the plain file, without gap
 */
export function cutSealed(segments: readonly SegmentSum[]): SealStretch[] {
  const end = endOf(segments.at(-1));
  const stretches: SealStretch[] = [];
  let first = 0; // the first segment that is not behind `plainOffset`
  for (let plainOffset = 0; plainOffset < end;) {
    while (endOf(segments[first]) <= plainOffset) first += 1;
    let plainEnd = Math.min(end, plainOffset + SEGMENT_BYTES);
    let last = first;
    while (endOf(segments[last]) < plainEnd) last += 1;
    const border = wholeChunks(segments[last]?.offset ?? 0);
    if (endOf(segments[last]) > plainEnd && border >= plainOffset + SEGMENT_BYTES / 2) plainEnd = border;
    const plainBytes = plainEnd - plainOffset;
    const headBytes = plainOffset === 0 ? AGE_HEAD_BYTES : 0;
    stretches.push({
      offset: plainOffset === 0 ? 0 : storedOffset(plainOffset),
      lengthBytes: headBytes + sealedLength(plainBytes),
      plainOffset,
      plainBytes,
      isEnd: plainEnd === end,
      from: segments.slice(first, last + 1).filter(({ offset }) => offset < plainEnd),
    });
    plainOffset = plainEnd;
  }
  return stretches;
}

const endOf = (segment: SegmentSum | undefined): number =>
  segment === undefined ? Infinity : segment.offset + segment.lengthBytes;

const wholeChunks = (offset: number): number => offset - (offset % CHUNK_BYTES);
