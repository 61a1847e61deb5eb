import type { ChainFile, SegmentSum } from '../copier/contract.ts';
import { imageOffset } from '../copier/image-segments.ts';
import { addPieces } from '../copier/restore-plan.ts';
import { followingSegments, pieceAt, PIECE_FIELDS, PieceList } from '../copier/restore-pieces.ts';
import { SEGMENT_BYTES } from '../copier/thread-task.ts';
import type { Stretch } from '../qcow2/chain-map.ts';

/** A file of a chain, and what its header says. */
export interface ServedFile {
  file: ChainFile;
  clusterBytes: number;
  compression: 'deflate' | 'zstd';
}

/** What is read, compared, decoded and kept at once: what the guest sees of a stored segment. */
export interface Portion {
  /** Among all portions of all disks. */
  key: string;
  served: ServedFile;
  segment: SegmentSum;
  /** Segments that its last compressed cluster reaches into; none in files of the copier. */
  following: SegmentSum[];
  /** See `PieceList`. */
  pieces: Float64Array;
  /** The segment is kept as it is stored, decrypted; else its pieces, decompressed, one behind the other. */
  isAsStored: boolean;
  /** Memory it takes. */
  lengthBytes: number;
}

/** A stretch of the guest's disk, and where in a portion it lies. */
export interface PortionStretch {
  guestOffset: number;
  lengthBytes: number;
  portion: Portion;
  at: number;
}

/** Kept as it is stored, if the guest sees more than this share of a segment. */
const AS_STORED_SHARE = 0.5;

/** Puts together what lies in the same segments. @param stretches of one window of the disk @returns in guest order */
export function planPortions(stretches: readonly Stretch[], files: readonly ServedFile[]): PortionStretch[] {
  const lists = files.map(() => new PieceList());
  const hints = files.map(() => 0);
  for (const stretch of stretches) {
    const [served, pieces] = [files[stretch.file], lists[stretch.file]];
    if (served === undefined || pieces === undefined) throw new RangeError(`no file ${stretch.file} in the chain`);
    const hint = hints[stretch.file] ?? 0;
    hints[stretch.file] = addPieces({ file: served.file, pieces }, stretch, stretch.guestOffset, hint);
  }
  const planned: PortionStretch[] = [];
  for (const [index, served] of files.entries()) {
    for (const { segment, pieces } of lists[index]?.bySegment() ?? []) {
      for (const part of parted(served.file, segment, pieces)) planned.push(...portionOf(served, segment, part));
    }
  }
  return planned.sort((a, b) => a.guestOffset - b.guestOffset);
}

/** Cuts where a portion would be longer than the segments that the copier makes: other files may hold any number of clusters in one. */
function* parted({ segments }: ChainFile, index: number, pieces: Float64Array): Generator<Float64Array> {
  const limitBytes = Math.max(SEGMENT_BYTES, segments[index]?.lengthBytes ?? 0);
  let from = 0;
  let lengthBytes = 0;
  for (let to = 0; to < pieces.length / PIECE_FIELDS; to += 1) {
    const piece = pieceAt(pieces, to);
    if (lengthBytes > 0 && lengthBytes + piece.lengthBytes > limitBytes) {
      yield pieces.subarray(from * PIECE_FIELDS, to * PIECE_FIELDS);
      from = to;
      lengthBytes = 0;
    }
    lengthBytes += piece.lengthBytes;
  }
  yield pieces.subarray(from * PIECE_FIELDS);
}

function portionOf(served: ServedFile, index: number, cut: Float64Array): PortionStretch[] {
  const { file } = served;
  const segment = file.segments[index];
  if (segment === undefined) throw new RangeError(`${file.source.blobKey} has no segment ${index}`);
  const pieces = cut.slice(); // alone in its memory: it goes to a thread
  const list = Array.from({ length: pieces.length / PIECE_FIELDS }, (_, at) => pieceAt(pieces, at));
  const seenBytes = list.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  const isPlain = list.every(({ compressedBytes }) => compressedBytes === 0);
  const isAsStored = isPlain && seenBytes > segment.lengthBytes * AS_STORED_SHARE;
  const portion: Portion = {
    key: `${file.source.blobKey} ${index} ${list[0]?.destinationOffset ?? 0}`,
    served,
    segment,
    following: followingSegments(file, index, pieces),
    pieces,
    isAsStored,
    lengthBytes: isAsStored ? segment.lengthBytes : seenBytes,
  };
  const start = imageOffset(segment, file.encryption);
  let filled = 0;
  return list.map(({ hostOffset, lengthBytes, destinationOffset: guestOffset }) => {
    const at = isAsStored ? hostOffset - start : filled;
    filled += lengthBytes;
    return { guestOffset, lengthBytes, portion, at };
  });
}
