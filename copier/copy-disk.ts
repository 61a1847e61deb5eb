import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { connectNbd } from '../nbd/connection.ts';
import { NbdRefused } from '../nbd/errors.ts';
import type { MappedCluster } from '../qcow2/tables.ts';
import { identifyFileSink } from '../repository/file-sink.ts';
import { openSource } from '../repository/source.ts';
import { completeFile } from './complete-file.ts';
import { buildChangeMap, DATA, readingOf, ZERO, type ChangeMap } from './change-map.ts';
import { CopierError, type CopyDiskOptions, type CopyResult, type CopySource, type SegmentSum } from './contract.ts';
import { expectedStoredBytes, planSegments, segmentCount, type PlannedSegment } from './copy-plan.ts';
import { isLoss, jobLost, type CopiedSegment, type CopySegmentTask } from './copy-segment.ts';
import { FileSpace } from './file-space.ts';
import { Journal, type FinishedFile } from './journal.ts';
import { placeClusters } from './place-clusters.ts';
import { ProgressThrottle } from './progress-throttle.ts';
import type { PlaceQuestion } from './store-clusters.ts';
import { StoredSegments } from './stored-segments.ts';
import type { ThreadPool } from './thread-pool.ts';

/**
 * Full copies: larger clusters compress better and faster, and make fewer entries. Incrementals keep the granularity of
 * QEMU's bitmaps, so that nothing is read that has not changed. One chain may mix both.
 */
const FULL_CLUSTER_BITS = 18;
const INCREMENTAL_CLUSTER_BITS = 16;

let lastCopy = 0;

/**
 * Copies a frozen disk, or what changed in it, into a qcow2 file: see `CopierPool.copyDisk`. Repeatable: with the same
 * journal and upload it goes on behind the segments that are stored, and when the file is complete already it only
 * returns the result again. The caller deletes the journal once the backup is published or given up.
 * The socket must belong to this one frozen instant for as long as the journal is used.
 * @throws CopierError `job-lost` (the export is gone, also after one more attempt to connect), `journal-mismatch`;
 * BlobStoreError; NbdError when the disk cannot be read; what `onPlanned` throws; the signal's reason
 */
export async function copyDisk(threads: ThreadPool, options: CopyDiskOptions): Promise<CopyResult> {
  const { signal, source } = options;
  signal.throwIfAborted();
  const clusterBits = options.backingFileName === undefined ? FULL_CLUSTER_BITS : INCREMENTAL_CLUSTER_BITS;
  const { map, canMultiConn } = await readMap(source, 2 ** clusterBits, signal);
  const stored = new StoredSegments(map, segmentCount(map));
  using journal = await Journal.open(
    options.journalPath,
    {
      mapSha256: map.sha256(),
      clusterBytes: map.clusterBytes,
      compression: options.compression,
      backingFileName: options.backingFileName ?? null,
      sink: await identifyFileSink(options.sink),
      bootId: (await readFile('/proc/sys/kernel/random/boot_id', 'latin1').catch(() => 'unknown')).trim(),
    },
    (segment) => stored.set(segment),
  );
  const resumedSegments = stored.count;
  if (resumedSegments > 0) await checkResumed(options, stored.sums());
  const result = { changedBytes: map.changedBytes, clusterBytes: map.clusterBytes, resumedSegments };
  if (journal.finished) return { ...result, ...fileOf(stored, journal.finished), readBytes: journal.readBytes };

  await options.onPlanned?.({
    changedBytes: map.changedBytes,
    expectedStoredBytes: Math.max(0, expectedStoredBytes(map) - stored.storedBytes),
  });
  signal.throwIfAborted();
  const space = new FileSpace(map.clusterBytes, stored.places());
  const readBytes = await copySegments(threads, options, { map, canMultiConn, journal, stored, space });
  const finished = await completeFile(options, {
    layout: { clusterBits, virtualSizeBytes: map.virtualSizeBytes },
    clusters: mappedClusters(map, stored, options.backingFileName !== undefined),
    hasCompressed: stored.hasCompressed,
    space,
  });
  journal.fileFinished(finished);
  return { ...result, ...fileOf(stored, finished), readBytes: journal.readBytes + readBytes };
}

function fileOf(
  stored: StoredSegments,
  { storedBytes, tail }: FinishedFile,
): Pick<CopyResult, 'storedBytes' | 'segments'> {
  return { storedBytes, segments: [...stored.sums(), ...tail].sort((a, b) => a.offset - b.offset) };
}

/** Asks the server what to copy. Tried twice, like every connection. */
async function readMap(
  source: CopySource,
  clusterBytes: number,
  signal: AbortSignal,
): Promise<{ map: ChangeMap; canMultiConn: boolean }> {
  const reading = readingOf(source.mapContext, source.allocationDepth);
  for (let attempt = 1; ; attempt++) {
    try {
      await using connection = await connectNbd({ socketPath: source.socketPath }, source.exportName, {
        contexts: reading.contexts,
        signal,
      });
      const { sizeBytes, canMultiConn } = connection.info;
      if (sizeBytes !== source.virtualSizeBytes) {
        throw new NbdRefused('unknown', `the export has ${sizeBytes} bytes, not ${source.virtualSizeBytes}`);
      }
      const extents = connection.extents({ signal });
      const map = await buildChangeMap(
        { clusterBytes, virtualSizeBytes: source.virtualSizeBytes },
        extents,
        reading.stateOf,
      );
      return { map, canMultiConn };
    } catch (error) {
      signal.throwIfAborted();
      if (!isLoss(error)) throw error;
      if (attempt > 1) throw jobLost(source, error);
    }
  }
}

/** Reads the first and the last segment back: a file that was made anew under a journal must not pass for the old one. */
async function checkResumed({ sink, journalPath }: CopyDiskOptions, segments: readonly SegmentSum[]): Promise<void> {
  await using file = await openSource(sink);
  for (const segment of new Set([segments[0], segments.at(-1)])) {
    if (!segment) continue;
    const bytes = Buffer.allocUnsafe(segment.lengthBytes);
    const count = await file.read(segment.offset, bytes);
    if (count === bytes.length && createHash('sha256').update(bytes).digest('hex') === segment.sha256) continue;
    throw new CopierError('journal-mismatch', `${sink.blobKey} does not hold what its journal ${journalPath} says`, {
      file: sink.blobKey,
    });
  }
}

interface Copy {
  map: ChangeMap;
  canMultiConn: boolean;
  journal: Journal;
  stored: StoredSegments;
  space: FileSpace;
}

/** Copies every segment that is not stored yet. Returns the bytes read. */
async function copySegments(threads: ThreadPool, options: CopyDiskOptions, copy: Copy): Promise<number> {
  const { map, journal, stored, space } = copy;
  const { source, sink, compression } = options;
  const name = `copy-${++lastCopy}`;
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  let readBytes = 0;
  let copiedBytes = 0;
  const report = new ProgressThrottle(() =>
    options.onProgress?.({
      copiedBytes,
      totalBytes: map.dataClusters * map.clusterBytes,
      storedBytes: stored.storedBytes,
    }),
  );

  async function copyOne(segment: PlannedSegment): Promise<void> {
    const task: CopySegmentTask = {
      kind: 'copy-segment',
      copy: name,
      source: {
        socketPath: source.socketPath,
        exportName: source.exportName,
        virtualSizeBytes: source.virtualSizeBytes,
      },
      sink,
      clusterBytes: map.clusterBytes,
      compression,
      runs: segment.runs,
    };
    await options.pace?.ready(signal);
    journal.opened(segment.index, segment.readBytes);
    const copied = await threads.run<CopiedSegment>(task, {
      signal,
      onAsk: (question) => space.place((question as PlaceQuestion).sizes).offset,
      ...(copy.canMultiConn ? {} : { together: name }),
    });
    options.pace?.passed(copied.lengthBytes);
    const done = { ...copied, index: segment.index, sha256: Buffer.from(copied.sha256) };
    journal.segmentStored(done);
    stored.set(done);
    readBytes += copied.readBytes;
    copiedBytes += segment.clusters * map.clusterBytes;
    report.tick();
  }

  const segments = planSegments(map);
  async function copyNext(): Promise<void> {
    for (const segment of segments) {
      signal.throwIfAborted();
      if (stored.has(segment.index)) copiedBytes += segment.clusters * map.clusterBytes;
      else await copyOne(segment);
    }
  }
  // As many at once as the threads take; with several disks the pool's queue treats them alike.
  const lanes = Array.from({ length: threads.capacity }, () =>
    copyNext().catch((error: unknown) => {
      stop.abort(error);
      throw error;
    }),
  );
  await Promise.allSettled(lanes); // nothing may be in flight when this returns
  const released = await Promise.allSettled([threads.release(`${name}/`)]);
  options.signal.throwIfAborted();
  stop.signal.throwIfAborted();
  if (released[0].status === 'rejected') throw released[0].reason;
  report.end();
  return readBytes;
}

/** What the image says of each changed cluster, in the order of the disk. Zeroes must hide what the parent has there. */
function* mappedClusters(map: ChangeMap, stored: StoredSegments, isIncremental: boolean): Generator<MappedCluster> {
  const segments = planSegments(map);
  const places = (function* () {
    for (const { index } of segments) {
      const { offset, sizes } = stored.get(index);
      const { offsets } = placeClusters(offset, sizes, map.clusterBytes);
      for (const [i, size] of sizes.entries()) yield { size, offset: offsets[i] ?? 0 };
    }
  })();
  for (const { first, count, state } of map.runs()) {
    if (state === ZERO) yield { kind: 'zero', guest: first, count };
    if (state !== DATA) continue;
    for (let guest = first; guest < first + count; guest++) {
      const place = places.next();
      if (place.done === true) throw new Error('fewer clusters are stored than the change map has');
      const { size, offset } = place.value;
      if (size === map.clusterBytes) yield { kind: 'plain', guest, offset };
      else if (size > 0) yield { kind: 'compressed', guest, offset, storedBytes: size };
      else if (isIncremental) yield { kind: 'zero', guest, count: 1 };
    }
  }
}
