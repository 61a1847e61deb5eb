import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { connectNbd } from '../nbd/connection.ts';
import { NbdRefused } from '../nbd/errors.ts';
import type { MappedCluster } from '../qcow2/tables.ts';
import { plainLength } from '../repository/age-file.ts';
import { createAgeHead } from '../repository/age-head.ts';
import type { BlobSinkDescriptor } from '../repository/blob-store.ts';
import { identifyFileSink } from '../repository/file-sink.ts';
import { openSource } from '../repository/source.ts';
import { completeFile } from './complete-file.ts';
import { buildChangeMap, DATA, readingOf, ZERO, type ChangeMap } from './change-map.ts';
import { CopierError, type CopyDiskOptions, type CopyResult, type CopySource, type SegmentSum } from './contract.ts';
import { expectedStoredBytes, planSegments, segmentCount, type PlannedSegment } from './copy-plan.ts';
import { isLoss, jobLost, type CopiedSegment, type CopySegmentTask } from './copy-segment.ts';
import type { CopyTarget } from './copy-target.ts';
import { PLAIN_FORM, sealedForm, type FileForm } from './file-form.ts';
import { FileTarget } from './file-target.ts';
import { Journal, type FinishedFile, type NotedPart, type StoredSegment } from './journal.ts';
import { PartTarget } from './part-target.ts';
import { placeClusters } from './place-clusters.ts';
import { ProgressThrottle } from './progress-throttle.ts';
import type { StoreQuestion, WrittenSegment } from './store-clusters.ts';
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
  const { source, sink } = options;
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  signal.throwIfAborted();
  const clusterBits = options.backingFileName === undefined ? FULL_CLUSTER_BITS : INCREMENTAL_CLUSTER_BITS;
  const { map, canMultiConn } = await readMap(source, 2 ** clusterBits, signal);
  const expectedBytes = expectedStoredBytes(map);
  const stored = new StoredSegments(map, segmentCount(map));
  using journal = await Journal.open(
    options.journalPath,
    {
      mapSha256: map.sha256(),
      clusterBytes: map.clusterBytes,
      compression: options.compression,
      backingFileName: options.backingFileName ?? null,
      sink: sink.kind === 'parts' ? `parts ${sink.identity}` : await identifyFileSink(sink),
      bootId: (await readFile('/proc/sys/kernel/random/boot_id', 'latin1').catch(() => 'unknown')).trim(),
      ...(options.recipient === undefined ? {} : { recipient: options.recipient }),
    },
    (segment) => stored.set(segment),
  );
  const { recipient } = options;
  const key = recipient === undefined ? undefined : (journal.key ?? (await createAgeHead(recipient)));
  if (key && !journal.key) journal.keyMade(key);
  const form = key ? sealedForm(key) : PLAIN_FORM;
  const settled = sink.kind === 'parts' ? resumeParts(journal, stored) : new Map(journal.placed);
  const resumedSegments = stored.count;
  if (sink.kind !== 'parts') await checkResumed(sink, options.journalPath, sumsOf(stored, form));
  const result = { changedBytes: map.changedBytes, clusterBytes: map.clusterBytes, resumedSegments };
  if (journal.finished) return { ...result, ...fileOf(stored, form, journal.finished), readBytes: journal.readBytes };

  await options.onPlanned?.({
    changedBytes: map.changedBytes,
    expectedStoredBytes: Math.max(0, expectedBytes - stored.storedBytes),
  });
  signal.throwIfAborted();
  const common = { form, clusterBytes: map.clusterBytes, notes: journal, signal };
  await using target =
    sink.kind === 'parts'
      ? await PartTarget.open({ ...common, sink, expectedBytes, buffers: threads.partBuffers, earlier: journal })
      : new FileTarget({ ...common, sink, taken: [...stored.places(), ...settled.values()] });
  const readBytes = await copySegments(threads, options, {
    map,
    canMultiConn,
    journal,
    payloadKey: key?.payloadKey,
    stored,
    settled,
    target,
    stop,
  });
  const finished = await completeFile(target, {
    layout: { clusterBits, virtualSizeBytes: map.virtualSizeBytes },
    clusters: mappedClusters(map, stored, options.backingFileName !== undefined),
    hasCompressed: stored.hasCompressed,
    backingFileName: options.backingFileName,
  });
  journal.fileFinished(finished);
  return { ...result, ...fileOf(stored, form, finished), readBytes: journal.readBytes + readBytes };
}

/** Takes over the segments of parts that are stored. Returns those that have their place and must be put there again. */
function resumeParts(journal: Journal, stored: StoredSegments): ReadonlyMap<number, StoredSegment> {
  journal.resumeParts();
  const isStored = (part?: NotedPart) =>
    journal.finished !== undefined || (part && journal.storedParts.has(part.number));
  const settled = new Map(journal.placed);
  const parts = journal.closedParts.values();
  let part = parts.next().value;
  for (const segment of [...settled.values()].sort((a, b) => a.offset - b.offset)) {
    while (part && segment.offset >= part.offset + part.lengthBytes) part = parts.next().value;
    if (!isStored(part)) continue;
    stored.set(segment);
    settled.delete(segment.index);
  }
  return settled;
}

/** Of the stored file, which may be encrypted. */
const sumsOf = (stored: StoredSegments, form: FileForm): SegmentSum[] =>
  stored.sums().map(({ offset, lengthBytes, sha256 }) => ({
    offset: form.storedOffset(offset),
    lengthBytes: form.sealedLength(lengthBytes),
    sha256,
  }));

function fileOf(
  stored: StoredSegments,
  form: FileForm,
  { storedBytes, tail }: FinishedFile,
): Pick<CopyResult, 'storedBytes' | 'plainBytes' | 'segments'> {
  const plainBytes = form.isSealed ? { plainBytes: plainLength(storedBytes) } : {};
  return {
    storedBytes,
    ...plainBytes,
    segments: [...sumsOf(stored, form), ...tail].sort((a, b) => a.offset - b.offset),
  };
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
async function checkResumed(
  sink: BlobSinkDescriptor,
  journalPath: string,
  segments: readonly SegmentSum[],
): Promise<void> {
  if (segments.length === 0) return;
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
  /** Of an encrypted file. */
  payloadKey: Uint8Array | undefined;
  stored: StoredSegments;
  /** Segments that an earlier attempt may have stored: they have their place, and must come out the same. */
  settled: ReadonlyMap<number, StoredSegment>;
  target: CopyTarget;
  /** Ends what is under way for it. */
  stop: AbortController;
}

/** Copies every segment that is not stored yet. Returns the bytes read. */
async function copySegments(threads: ThreadPool, options: CopyDiskOptions, copy: Copy): Promise<number> {
  const { map, journal, stored, settled, target, stop } = copy;
  const { source, compression } = options;
  const name = `copy-${++lastCopy}`;
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

  async function copyOne(planned: PlannedSegment, earlier?: StoredSegment): Promise<void> {
    const { index } = planned;
    const task: CopySegmentTask = {
      kind: 'copy-segment',
      copy: name,
      source: {
        socketPath: source.socketPath,
        exportName: source.exportName,
        virtualSizeBytes: source.virtualSizeBytes,
      },
      sink: target.sink,
      clusterBytes: map.clusterBytes,
      compression,
      payloadKey: copy.payloadKey,
      runs: planned.runs,
      again: earlier && { place: await target.placeAgain(earlier), sizes: earlier.sizes, sha256: earlier.sha256 },
    };
    await options.pace?.ready(signal); // after the place: those must be asked for in order
    signal.throwIfAborted();
    journal.opened(index, planned.readBytes);
    const segmentOf = (written: WrittenSegment, readBytes: number): StoredSegment => ({
      ...written,
      index,
      readBytes,
      sha256: Buffer.from(written.sha256),
    });
    const answer = (question: StoreQuestion): unknown => {
      if (question.kind === 'place') return target.place(question.sizes);
      target.segmentSettled(segmentOf(question.segment, planned.readBytes));
      return undefined;
    };
    const copied = await threads.run<CopiedSegment>(task, {
      signal,
      onAsk: (question) => answer(question as StoreQuestion),
      ...(copy.canMultiConn ? {} : { together: name }),
    });
    const done = segmentOf(copied, copied.readBytes);
    target.segmentDone(done);
    options.pace?.passed(copied.lengthBytes);
    stored.set(done);
    readBytes += copied.readBytes;
    copiedBytes += planned.clusters * map.clusterBytes;
    report.tick();
  }

  // What has its place comes first, in the order of the file: a part that holds memory then lacks nothing that waits for some.
  const again = [...settled.values()].sort((a, b) => a.offset - b.offset).values();
  const planned = settled.size === 0 ? undefined : plannedOf(map, settled);
  const segments = planSegments(map);
  async function copyNext(): Promise<void> {
    for (const earlier of again) {
      signal.throwIfAborted();
      const segment = planned?.get(earlier.index);
      if (segment) await copyOne(segment, earlier);
    }
    for (const segment of segments) {
      signal.throwIfAborted();
      if (stored.has(segment.index)) copiedBytes += segment.clusters * map.clusterBytes;
      else if (!settled.has(segment.index)) await copyOne(segment);
    }
  }
  // As many at once as the threads take; with several disks the pool's queue treats them alike.
  const lanes = Array.from({ length: threads.capacity() }, () =>
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

function plannedOf(map: ChangeMap, settled: ReadonlyMap<number, StoredSegment>): Map<number, PlannedSegment> {
  const planned = new Map<number, PlannedSegment>();
  for (const segment of planSegments(map)) if (settled.has(segment.index)) planned.set(segment.index, segment);
  return planned;
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
