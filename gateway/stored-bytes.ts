import { setTimeout as sleep } from 'node:timers/promises';
import { segmentAt } from '../copier/chain-source.ts';
import type { ChainFile } from '../copier/contract.ts';
import { imageEnd, imageOffset, storedPlace } from '../copier/image-segments.ts';
import { ThreadPool } from '../copier/thread-pool.ts';
import type { Stretch } from '../qcow2/chain-map.ts';
import { BlobStoreError } from '../repository/blob-store.ts';
import type { ByteCache } from './byte-cache.ts';
import type { DecodeClustersTask } from './decode-clusters.ts';
import type { LoadSegmentTask } from './load-segment.ts';

/** A file of a chain, and what its header says. */
export interface ServedFile {
  file: ChainFile;
  clusterBytes: number;
  compression: 'deflate' | 'zstd';
}

/** A stretch that lies in a file compressed. */
type CompressedStretch = Pick<Stretch, 'hostOffset' | 'storedBytes'>;

const HANDLERS = {
  'load-segment': new URL('./load-segment.ts', import.meta.url).href,
  'decode-clusters': new URL('./decode-clusters.ts', import.meta.url).href,
};
const THREADS = 2;
/** Reads of one thread under way at once: what hides the latency of a store that is far away. */
const TASKS_PER_THREAD = 8;

/**
 * How long a read waits for a repository that does not answer, before it fails: a failed read stops the guest, and ends the
 * pull. Drivers in some guests give a request up after 30 s.
 */
const HOLD_MS = 15_000;
const AGAIN_AFTER_MS = 500;

/** Decompressed in one memory, which stays as long as one of them is kept: 1 MiB with clusters of 64 KiB. */
const CLUSTERS_PER_TASK = 16;

/** Threads that read, compare, decrypt and decompress for all disks of a gateway. */
export const createGatewayThreads = (): ThreadPool =>
  new ThreadPool({ threads: THREADS, tasksPerThread: TASKS_PER_THREAD, handlers: HANDLERS });

/** Gives out the bytes of stored files: read as whole segments and compared with their hashes, then decoded, then kept. */
export class StoredBytesReader {
  readonly #threads: ThreadPool;
  readonly #cache: ByteCache;
  readonly #signal: AbortSignal;
  /** Clusters of one segment that are asked for while it is being read: they are decoded together. */
  readonly #batches = new Map<string, { clusters: CompressedStretch[]; decoded: Promise<Uint8Array[]> }>();

  constructor(options: {
    threads: ThreadPool;
    cache: ByteCache;
    /** Ends what is under way: that of the gateway, not of a request, because others may wait for the same bytes. */
    signal: AbortSignal;
  }) {
    this.#threads = options.threads;
    this.#cache = options.cache;
    this.#signal = options.signal;
  }

  /**
   * Bytes of the qcow2 file, in pieces that end where segments do.
   * @throws CopierError `integrity`, `file-missing`; BlobStoreError
   */
  async plain(served: ServedFile, offset: number, lengthBytes: number): Promise<Uint8Array[]> {
    const { segments, encryption } = served.file;
    const end = offset + lengthBytes;
    const pieces: Promise<Uint8Array>[] = [];
    for (let at = offset, index = segmentOf(served, offset); at < end; index += 1) {
      const segment = segments[index];
      if (segment === undefined) throw new RangeError(`no segment holds offset ${at}`);
      const start = imageOffset(segment, encryption);
      const from = at - start;
      pieces.push(this.#segment(served, index).then((bytes) => bytes.subarray(from, end - start)));
      at = imageEnd(segment, encryption);
    }
    return await Promise.all(pieces);
  }

  /** One compressed cluster, decompressed. @throws as `plain` does, and CopierError `integrity` when it cannot be decompressed */
  async cluster(served: ServedFile, stretch: CompressedStretch): Promise<Uint8Array> {
    const { blobKey } = served.file.source;
    return await this.#cache.get(`${blobKey} cluster ${stretch.hostOffset}`, async () => {
      const index = segmentOf(served, stretch.hostOffset);
      const key = `${blobKey} ${index}`;
      let batch = this.#batches.get(key);
      if (batch === undefined) {
        const clusters: CompressedStretch[] = [];
        batch = { clusters, decoded: this.#decode(served, index, clusters, () => this.#batches.delete(key)) };
        this.#batches.set(key, batch);
      }
      const place = batch.clusters.push(stretch) - 1;
      const bytes = (await batch.decoded)[place];
      if (bytes === undefined) throw new RangeError(`no cluster ${place} in its batch`);
      return bytes;
    });
  }

  async #decode(
    served: ServedFile,
    index: number,
    clusters: readonly CompressedStretch[],
    close: () => void,
  ): Promise<Uint8Array[]> {
    try {
      await this.#segment(served, index);
    } finally {
      close(); // from here on nobody joins
    }
    const tasks: Promise<Uint8Array[]>[] = [];
    for (let from = 0; from < clusters.length; from += CLUSTERS_PER_TASK) {
      tasks.push(this.#decompress(served, clusters.slice(from, from + CLUSTERS_PER_TASK)));
    }
    return (await Promise.all(tasks)).flat();
  }

  /** Their segment has been read; the next one is, where the last of them reaches into it. */
  async #decompress(served: ServedFile, clusters: readonly CompressedStretch[]): Promise<Uint8Array[]> {
    const { clusterBytes, compression } = served;
    const pieces: Uint8Array[] = [];
    const places: DecodeClustersTask['places'] = [];
    let at = 0;
    for (const { hostOffset, storedBytes } of clusters) {
      pieces.push(...(await this.plain(served, hostOffset, storedBytes)));
      places.push({ at, storedBytes });
      at += storedBytes;
    }
    const stored = joined(pieces, at);
    const task: DecodeClustersTask = { kind: 'decode-clusters', stored, places, clusterBytes, compression };
    const decoded = await this.#threads.run<Uint8Array>(task, { signal: this.#signal, moved: [stored.buffer] });
    return clusters.map((_, index) => decoded.subarray(index * clusterBytes, (index + 1) * clusterBytes));
  }

  #segment({ file }: ServedFile, index: number): Promise<Uint8Array> {
    const segment = file.segments[index];
    if (segment === undefined) throw new RangeError(`${file.source.blobKey} has no segment ${index}`);
    return this.#cache.get(`${file.source.blobKey} segment ${index}`, async () => {
      const { source, encryption } = file;
      const task: LoadSegmentTask = { kind: 'load-segment', file: { source, encryption }, segment };
      for (const deadline = Date.now() + HOLD_MS; ;) {
        try {
          return await this.#threads.run<Uint8Array>(task, { signal: this.#signal });
        } catch (error) {
          const isAway = error instanceof BlobStoreError && error.code === 'unavailable';
          if (!isAway || Date.now() > deadline) throw error;
          await sleep(AGAIN_AFTER_MS, undefined, { signal: this.#signal });
        }
      }
    });
  }
}

/** Index of the segment that holds the byte at that offset of the qcow2 file. */
const segmentOf = ({ file: { segments, encryption } }: ServedFile, offset: number): number =>
  segmentAt(segments, storedPlace(offset, encryption));

function joined(pieces: readonly Uint8Array[], lengthBytes: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(lengthBytes);
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
