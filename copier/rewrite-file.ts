import { randomUUID } from 'node:crypto';
import { ENTRY_BYTES } from '../qcow2/format.ts';
import { plainLength } from '../repository/age-file.ts';
import { createAgeHead } from '../repository/age-head.ts';
import { clusterBatches } from './cluster-batches.ts';
import { altered, isRemote } from './chain-source.ts';
import { completeFile } from './complete-file.ts';
import type { ChainFile, RewriteOptions, RewriteResult, SegmentSum } from './contract.ts';
import { describedRuns } from './described-runs.ts';
import { NO_NOTES } from './copy-target.ts';
import { PLAIN_FORM, sealedForm } from './file-form.ts';
import { FileTarget } from './file-target.ts';
import { Fingerprint } from './fingerprint.ts';
import type { FingerprintSegmentTask } from './fingerprint-segment.ts';
import { inFlight } from './in-flight.ts';
import { PartTarget } from './part-target.ts';
import { ProgressThrottle } from './progress-throttle.ts';
import { openChain, planPieces, type OpenChain, type PlannedFile } from './restore-plan.ts';
import { followingSegments } from './restore-pieces.ts';
import type { RewriteSegmentTask, RewrittenSegment, StoredClusters } from './rewrite-segment.ts';
import { RewrittenClusters } from './rewritten-clusters.ts';
import type { StoreQuestion } from './store-clusters.ts';
import type { ThreadPool } from './thread-pool.ts';
import { SEGMENT_BYTES } from './thread-task.ts';
import type { VerifySegmentTask } from './verify-segment.ts';

/**
 * Writes a stored file anew: see `CopierPool.rewriteFile`. First each segment is read, compared with its hash and stored again;
 * then the new file is read back and compared, for what it holds for the guest and what it leaves to the file beneath.
 * @throws CopierError `integrity`, `file-missing`; BlobStoreError; the signal's reason
 */
export async function rewriteFile(threads: ThreadPool, options: RewriteOptions): Promise<RewriteResult> {
  const { chain, virtualSizeBytes, backingFileName: below, signal } = options;
  signal.throwIfAborted();
  const sourceBytes = chain.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  const progress = new Progress(options, sourceBytes);
  await using opened = await openChain({ chain, virtualSizeBytes, below, signal });
  const clusterBytes = Math.min(...opened.readers.map(({ header }) => header.clusterBytes));
  const planned = await planPieces(opened, { place: (guestOffset) => guestOffset }, signal);
  const ends = opened.readers.map(({ header }) => header.virtualSizeBytes);
  const own = below === undefined ? undefined : opened.readers.at(-1); // a full leaves nothing to a file beneath
  const zeroRuns = own && (await opened.naming(0, () => describedRuns(own, (kind) => kind === 'zero')));

  const { recipient } = options;
  const key = recipient === undefined ? undefined : await createAgeHead(recipient);
  const form = key ? sealedForm(key) : PLAIN_FORM;
  const common = { form, clusterBytes, notes: NO_NOTES, signal };
  const { sink, compression } = options;
  const expectedBytes = mostBytes(planned, { clusterBytes, virtualSizeBytes });
  await using target =
    sink.kind === 'parts'
      ? await PartTarget.open({ ...common, sink, expectedBytes, buffers: threads.partBuffers })
      : new FileTarget({ ...common, sink });
  const clusters = new RewrittenClusters(clusterBytes);
  const expected = new Fingerprint();
  const segments: SegmentSum[] = [];
  const copy = `rewrite:${randomUUID()}`;
  const tasks = clusterTasks(planned, { clusterBytes, ends });
  const far = chain.some(({ source }) => isRemote(source));
  await runAll(threads, { name: copy, tasks, isRemote: far, signal }, async ({ clusters: task, stored }, either) => {
    await options.pace?.ready(either);
    options.pace?.passed(stored);
    if (task) {
      const rewriting: RewriteSegmentTask = {
        ...task,
        kind: 'rewrite-segment',
        copy,
        sink: target.sink,
        compression,
        payloadKey: key?.payloadKey,
      };
      const { fingerprint, ...written } = await threads.run<RewrittenSegment>(rewriting, {
        signal: either,
        isRemote: far,
        onAsk: (asked) => {
          const question = asked as StoreQuestion;
          return question.kind === 'place' ? target.place(question.sizes) : undefined; // there is no later attempt
        },
      });
      const sha256 = Buffer.from(written.sha256);
      target.segmentDone({ ...written, sha256, index: segments.length, readBytes: 0 });
      clusters.add(task.guests, written);
      expected.add(fingerprint);
      const [offset, lengthBytes] = [form.storedOffset(written.offset), form.sealedLength(written.lengthBytes)];
      options.pace?.passed(written.lengthBytes);
      if (written.lengthBytes > 0) segments.push({ offset, lengthBytes, sha256: sha256.toString('hex') });
    }
    progress.read(stored);
  });
  const finished = await completeFile(target, {
    layout: { clusterBits: Math.log2(clusterBytes), virtualSizeBytes },
    clusters: clusters.mapped(zeroRuns),
    hasCompressed: clusters.hasCompressed,
    backingFileName: below,
    otherThanBytes: options.otherThanBytes,
  });
  const rewritten: ChainFile = {
    encryption: key && { payloadKey: key.payloadKey, plainBytes: plainLength(finished.storedBytes) },
    source: await options.finish(finished.storedBytes),
    storedBytes: finished.storedBytes,
    segments: [...segments, ...finished.tail].sort((a, b) => a.offset - b.offset),
  };
  const described = own && (await opened.naming(0, () => describedRuns(own)));
  await compare(threads, options, { rewritten, expected, described, progress });
  progress.end();
  return {
    storedBytes: finished.storedBytes,
    ...(rewritten.encryption ? { plainBytes: rewritten.encryption.plainBytes } : {}),
    segments: rewritten.segments,
    clusterBytes,
    describedBytes: Math.min(virtualSizeBytes, clusters.count * clusterBytes),
  };
}

/** The new file if nothing can be compressed: what the size of an upload's parts is chosen by. */
function mostBytes(
  planned: readonly PlannedFile[],
  { clusterBytes, virtualSizeBytes }: { clusterBytes: number; virtualSizeBytes: number },
): number {
  const plainBytes = planned.reduce((sum, { pieces }) => sum + pieces.lengthBytes, 0);
  const tableBytes = Math.ceil(virtualSizeBytes / clusterBytes) * ENTRY_BYTES;
  return plainBytes + tableBytes + SEGMENT_BYTES;
}

interface SegmentWork {
  clusters: StoredClusters | undefined;
  file: ChainFile;
  segment: SegmentSum;
  /** Counts as read with it. */
  stored: number;
  /** It was hashed for its tables. */
  isVerified: boolean;
}

/** One task per segment, base first; several where a segment holds more than fits one. */
function* clusterTasks(
  planned: readonly PlannedFile[],
  { clusterBytes, ends }: { clusterBytes: number; ends: readonly number[] },
): Generator<SegmentWork> {
  for (const { file, pieces: list, verified, clusterBytes: fromBytes, compression } of planned) {
    const { source, segments, encryption } = file;
    const from = { clusterBytes: fromBytes, compression };
    const wanted = list.bySegment();
    let next = wanted.next();
    for (const [index, segment] of segments.entries()) {
      let stored = segment.lengthBytes;
      const common = { file, segment, isVerified: verified.has(index) };
      if (next.done || next.value.segment !== index) {
        yield { ...common, clusters: undefined, stored };
        continue;
      }
      for (const { pieces, guests } of clusterBatches(next.value.pieces, {
        clusterBytes,
        ends,
        blobKey: source.blobKey,
      })) {
        const following = followingSegments(file, index, pieces);
        yield {
          ...common,
          clusters: { source, encryption, segment, following, from, pieces, guests, clusterBytes },
          stored,
        };
        stored = 0;
      }
      next = wanted.next();
    }
  }
}

async function runAll<T>(
  threads: ThreadPool,
  { name, tasks, isRemote, signal }: { name: string; tasks: Iterable<T>; isRemote: boolean; signal: AbortSignal },
  work: (task: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stopped = new AbortController();
  const either = AbortSignal.any([signal, stopped.signal]);
  try {
    await inFlight(tasks, {
      limit: threads.capacity({ isRemote }) + 2,
      stop: (reason) => stopped.abort(reason),
      work: (task) => work(task, either),
    });
  } finally {
    await threads.release(`${name}/`);
  }
  signal.throwIfAborted();
}

/** Reads the new file, all of it, and compares what it says with what was read of the former one. */
async function compare(
  threads: ThreadPool,
  options: RewriteOptions,
  found: { rewritten: ChainFile; expected: Fingerprint; described: number[] | undefined; progress: Progress },
): Promise<void> {
  const { virtualSizeBytes, backingFileName: below, signal } = options;
  const { rewritten, expected, described, progress } = found;
  const { source } = rewritten;
  await using opened: OpenChain = await openChain({ chain: [rewritten], virtualSizeBytes, below, signal });
  const [reader] = opened.readers;
  if (!reader) throw new RangeError('a chain without files');
  const { clusterBytes } = reader.header;
  const planned = await planPieces(opened, { place: (guestOffset) => guestOffset }, signal);
  const name = `compare:${randomUUID()}`;
  const actual = new Fingerprint();
  const tasks = clusterTasks(planned, { clusterBytes, ends: [virtualSizeBytes] });
  await runAll(
    threads,
    { name, tasks, isRemote: isRemote(source), signal },
    async ({ clusters, segment, stored, isVerified }, either) => {
      await options.pace?.ready(either);
      options.pace?.passed(stored);
      if (clusters) {
        const task: FingerprintSegmentTask = { ...clusters, kind: 'fingerprint-segment', name };
        actual.add(await threads.run<Uint8Array>(task, { signal: either, isRemote: isRemote(source) }));
      } else if (!isVerified) {
        const task: VerifySegmentTask = { kind: 'verify-segment', source, segment, resources: `${name}/` };
        await threads.run(task, { signal: either, isRemote: isRemote(source) });
      }
      progress.compared(stored, rewritten.storedBytes);
    },
  );
  if (!actual.equals(expected)) {
    throw altered(source.blobKey, 'what was written does not read as what it was made from; the former file stays');
  }
  const leaves = described && (await opened.naming(0, () => describedRuns(reader)));
  if (leaves && !sameRuns(leaves, described)) {
    throw altered(source.blobKey, 'it does not leave the same clusters to the file beneath; the former file stays');
  }
}

const sameRuns = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((value, index) => value === b[index]);

/** Half of the way is reading the former file, half comparing the new one. */
class Progress {
  readonly #sourceBytes: number;
  readonly #throttle: ProgressThrottle;
  #done = 0;

  constructor({ onProgress }: Pick<RewriteOptions, 'onProgress'>, sourceBytes: number) {
    this.#sourceBytes = sourceBytes;
    this.#throttle = new ProgressThrottle(() =>
      onProgress?.({ doneBytes: Math.round(this.#done), totalBytes: 2 * sourceBytes }),
    );
  }

  read(bytes: number): void {
    this.#done += bytes;
    this.#throttle.tick();
  }

  compared(bytes: number, ofBytes: number): void {
    this.read((bytes / ofBytes) * this.#sourceBytes);
  }

  end(): void {
    this.#throttle.end();
  }
}
