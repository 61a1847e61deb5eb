import type { ChainFile, SegmentSum } from './contract.ts';
import type { FileForm } from './file-form.ts';
import { imageBytes, imageEnd, imageOffset } from './image-segments.ts';
import { SEGMENT_BYTES } from './thread-task.ts';
import type { Stretch } from './transfer-parts.ts';

/** A segment of a file in another form, and what it is made of. Offset and length are of the new file; the first has its head. */
export interface RecryptStretch extends Stretch {
  plainOffset: number;
  plainBytes: number;
  /** Reaches to the end of the plain file. */
  isEnd: boolean;
  /** Segments of the stored file that hold its bytes, in order: at the borders some that hold others' too. */
  from: SegmentSum[];
}

/**
 * Cuts a stored file into the segments that it has in another form: whole chunks where that is encrypted, at most
 * `SEGMENT_BYTES` of plain bytes. They end where a segment of the stored file ends, if there is one in their second half: less is
 * read twice.
 * @param file its segments without gap
 */
export function cutAnew(
  { segments, storedBytes, encryption }: Pick<ChainFile, 'segments' | 'storedBytes' | 'encryption'>,
  form: Pick<FileForm, 'alignBytes' | 'head' | 'storedOffset' | 'sealedLength'>,
): RecryptStretch[] {
  const end = imageBytes({ storedBytes, encryption });
  const places = segments.map((segment) => ({
    segment,
    start: imageOffset(segment, encryption),
    end: imageEnd(segment, encryption),
  }));
  const endOf = (index: number): number => places[index]?.end ?? Infinity;
  const stretches: RecryptStretch[] = [];
  let first = 0; // the first segment that is not behind `plainOffset`
  for (let plainOffset = 0; plainOffset < end;) {
    while (endOf(first) <= plainOffset) first += 1;
    let plainEnd = Math.min(end, plainOffset + SEGMENT_BYTES);
    let last = first;
    while (endOf(last) < plainEnd) last += 1;
    const start = places[last]?.start ?? 0;
    const border = start - (start % form.alignBytes);
    if (endOf(last) > plainEnd && border >= plainOffset + SEGMENT_BYTES / 2) plainEnd = border;
    const plainBytes = plainEnd - plainOffset;
    const isFirst = plainOffset === 0;
    stretches.push({
      offset: isFirst ? 0 : form.storedOffset(plainOffset),
      lengthBytes: (isFirst ? form.head.length : 0) + form.sealedLength(plainBytes),
      plainOffset,
      plainBytes,
      isEnd: plainEnd === end,
      from: places
        .slice(first, last + 1)
        .filter((place) => place.start < plainEnd)
        .map(({ segment }) => segment),
    });
    plainOffset = plainEnd;
  }
  return stretches;
}
