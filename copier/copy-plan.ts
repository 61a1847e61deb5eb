import { ENTRY_BYTES, REFCOUNT_BYTES } from '../qcow2/format.ts';
import { DATA, type ChangeMap } from './change-map.ts';
import { SEGMENT_BYTES } from './thread-task.ts';

/** Some clusters to be read, hashed and stored in one go: up to 4 MiB, perhaps from many places of the disk. */
export interface PlannedSegment {
  index: number;
  /** Place of its first cluster among all data clusters of the disk. */
  firstOrdinal: number;
  clusters: number;
  /** First cluster and count of each run, one after the other. */
  runs: number[];
  /** What is read for it: whole clusters, except past the end of the disk. */
  readBytes: number;
}

/** Cuts the data clusters of a map into segments, in the order of the disk. Equal maps are cut alike. */
export function* planSegments(map: ChangeMap): Generator<PlannedSegment> {
  const most = SEGMENT_BYTES / map.clusterBytes;
  let segment: PlannedSegment = { index: 0, firstOrdinal: 0, clusters: 0, runs: [], readBytes: 0 };
  for (const run of map.runs()) {
    if (run.state !== DATA) continue;
    for (let done = 0; done < run.count;) {
      const first = run.first + done;
      const count = Math.min(run.count - done, most - segment.clusters);
      segment.runs.push(first, count);
      segment.clusters += count;
      segment.readBytes +=
        Math.min((first + count) * map.clusterBytes, map.virtualSizeBytes) - first * map.clusterBytes;
      done += count;
      if (segment.clusters < most) continue;
      yield segment;
      const { index, firstOrdinal } = segment;
      segment = { index: index + 1, firstOrdinal: firstOrdinal + most, clusters: 0, runs: [], readBytes: 0 };
    }
  }
  if (segment.clusters > 0) yield segment;
}

export const segmentCount = (map: ChangeMap): number =>
  Math.ceil(map.dataClusters / (SEGMENT_BYTES / map.clusterBytes));

/** Length of the file if nothing could be compressed and no read cluster were zero: never less than what comes of it. */
export function expectedStoredBytes(map: ChangeMap): number {
  const { clusterBytes } = map;
  const perTable = clusterBytes / ENTRY_BYTES;
  let tables = 0;
  let lastTable = -1;
  for (const { first, count } of map.runs()) {
    const from = Math.max(Math.floor(first / perTable), lastTable + 1);
    lastTable = Math.max(lastTable, Math.floor((first + count - 1) / perTable));
    tables += Math.max(0, lastTable - from + 1);
  }
  const l1Entries = Math.ceil(map.virtualSizeBytes / clusterBytes / perTable);
  const l1Clusters = Math.max(1, Math.ceil((l1Entries * ENTRY_BYTES) / clusterBytes));
  const counted = 1 + map.dataClusters + tables + l1Clusters;
  const refcountBlocks = 1 + Math.ceil((counted * REFCOUNT_BYTES) / (clusterBytes - REFCOUNT_BYTES));
  return (counted + refcountBlocks + 1 + Math.ceil((refcountBlocks * ENTRY_BYTES) / clusterBytes)) * clusterBytes;
}
