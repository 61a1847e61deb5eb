import type { BlobSinkDescriptor } from '../repository/blob-store.ts';
import type { FinishedFile, Journal, StoredSegment } from './journal.ts';
import type { ClusterSizes } from './place-clusters.ts';

/** Where a segment goes. All offsets are of the plain file: what they are in an encrypted one, `FileForm` tells. */
export interface SegmentPlace {
  offset: number;
  /** Where its stored bytes are to be put; without it the thread writes them to the sink. */
  memory?: { buffer: SharedArrayBuffer; at: number };
}

/** What a target notes for a later attempt; a rewriting has none. */
export type CopyNotes = Pick<
  Journal,
  'segmentStored' | 'segmentPlaced' | 'segmentStoredInPlace' | 'partClosed' | 'partStored' | 'dataEnded'
>;

export const NO_NOTES: CopyNotes = {
  segmentStored: () => undefined,
  segmentPlaced: () => undefined,
  segmentStoredInPlace: () => undefined,
  partClosed: () => undefined,
  partStored: () => undefined,
  dataEnded: () => undefined,
};

/**
 * The file that a copy or a rewriting makes. Threads put segments where it says; when all have, what stayed empty is filled,
 * tables follow, and the first cluster comes last.
 */
export interface CopyTarget extends AsyncDisposable {
  /** What threads write to; absent where they put their bytes into memory. */
  readonly sink: BlobSinkDescriptor | undefined;
  /** Places a segment that is not all zeroes. Waits while there is no memory for it. */
  place(sizes: ClusterSizes): Promise<SegmentPlace>;
  /** The place of a segment that an earlier attempt settled. Asked in the order of their offsets. */
  placeAgain(segment: Pick<StoredSegment, 'offset' | 'lengthBytes'>): Promise<SegmentPlace>;
  /** Told what a thread is about to write to the sink, where that must be known to a later attempt before. */
  segmentSettled(segment: StoredSegment): void;
  /** Told when a thread has put a segment where it belongs. Failures to store come later, from `endData` or `finish`. */
  segmentDone(segment: StoredSegment): void;
  /** All segments are done: fills what stayed empty. Returns where tables may start, a multiple of the cluster size. */
  endData(): Promise<number>;
  /** Adds bytes at the end, whole clusters, at most `SEGMENT_BYTES`. `isEnd`: nothing follows. */
  append(bytes: Buffer, isEnd: boolean): Promise<void>;
  /** Length of the stored file when `plainBytes` are in it. */
  storedLength(plainBytes: number): number;
  /** Stores the first cluster, which makes the file complete. */
  finish(firstCluster: Buffer): Promise<FinishedFile>;
}
