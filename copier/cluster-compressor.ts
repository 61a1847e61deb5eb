import { constants, createZstdCompress, zstdCompressSync, type ZstdCompress } from 'node:zlib';

/** After this many clusters in a row that did not get smaller … */
const FAILURES_BEFORE_SKIPPING = 2;
/** … so many are stored as they are, untried. */
const CLUSTERS_SKIPPED = 7;
const LEVEL = 1;

/** The part of a zstd stream's handle that compresses in the calling thread, into memory of ours. Internal to Node. */
interface ZstdHandle {
  writeSync(
    flush: number,
    from: Uint8Array,
    at: number,
    count: number,
    into: Uint8Array,
    intoAt: number,
    room: number,
  ): void;
}

/** Compresses clusters one by one, each a zstd frame of its own, as QEMU reads them. One per thread: its memory is reused. */
export class ClusterCompressor {
  readonly #clusterBytes: number;
  /** More than this is not worth a decompression at every read. */
  readonly #mostBytes: number;
  readonly #reusesContext: boolean;
  #context: ZstdCompress | undefined;
  #failures = 0;
  #skip = 0;

  /** @param reusesContext false: as on a Node whose internals have changed */
  constructor(clusterBytes: number, { reusesContext = true } = {}) {
    this.#reusesContext = reusesContext;
    this.#clusterBytes = clusterBytes;
    this.#mostBytes = clusterBytes - clusterBytes / 16;
  }

  /** Bytes that must be free behind `at` for `compress`. Source: zstd.h, ZSTD_COMPRESSBOUND */
  get roomBytes(): number {
    return this.#clusterBytes + this.#clusterBytes / 256 + 1024;
  }

  /**
   * Compresses a cluster to `into` from `at` on. Returns the bytes it takes there, or undefined when it is better stored
   * as it is.
   */
  compress(cluster: Uint8Array, into: Buffer, at: number): number | undefined {
    if (this.#skip > 0) {
      this.#skip--;
      return undefined;
    }
    const storedBytes = this.#frame(cluster, into, at);
    if (storedBytes <= this.#mostBytes) {
      this.#failures = 0;
      return storedBytes;
    }
    // What cannot be compressed comes in long runs; one attempt in eight notices their end.
    if (++this.#failures >= FAILURES_BEFORE_SKIPPING) this.#skip = CLUSTERS_SKIPPED;
    return undefined;
  }

  /** Compresses a cluster that was compressed before, whatever the last ones were like. Returns the bytes it takes. */
  compressAgain(cluster: Uint8Array, into: Buffer, at: number): number {
    return this.#frame(cluster, into, at);
  }

  #frame(cluster: Uint8Array, into: Buffer, at: number): number {
    const handle = this.#handle();
    if (!handle) {
      const frame = zstdCompressSync(cluster, {
        chunkSize: this.roomBytes,
        params: { [constants.ZSTD_c_compressionLevel]: LEVEL },
      });
      if (frame.length <= this.#mostBytes) frame.copy(into, at);
      return frame.length;
    }
    stateOf(this.#context).set([0, 1]); // an error would leave the last call's values
    handle.writeSync(constants.ZSTD_e_end, cluster, 0, cluster.length, into, at, this.roomBytes);
    const [roomLeft = 0, inputLeft = 0] = stateOf(this.#context);
    // A frame needs at most `roomBytes`; anything else means the handle no longer works as it did.
    if (inputLeft !== 0 || roomLeft === 0) throw new Error('zstd stopped in the middle of a cluster');
    return this.roomBytes - roomLeft;
  }

  /** A fresh context per cluster, as `zstdCompressSync` makes, costs a sixth more time and a buffer each. undefined where Node has changed. */
  #handle(): ZstdHandle | undefined {
    if (!this.#reusesContext) return undefined;
    this.#context ??= createZstdCompress({
      chunkSize: this.roomBytes,
      params: { [constants.ZSTD_c_compressionLevel]: LEVEL },
    });
    const { _handle: handle } = this.#context as unknown as { _handle?: Partial<ZstdHandle> };
    return typeof handle?.writeSync === 'function' && stateOf(this.#context).length === 2
      ? (handle as ZstdHandle)
      : undefined;
  }
}

/** Room and input left after a write. */
function stateOf(context: ZstdCompress | undefined): Uint32Array {
  const { _writeState: state } = context as unknown as { _writeState?: Uint32Array };
  return state instanceof Uint32Array ? state : new Uint32Array();
}
