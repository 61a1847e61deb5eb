import { setTimeout as sleep } from 'node:timers/promises';
import { isRemote } from '../copier/chain-source.ts';
import { ThreadPool } from '../copier/thread-pool.ts';
import { BlobStoreError } from '../repository/blob-store.ts';
import type { LoadPortionTask } from './load-portion.ts';
import type { Lent, PortionCache } from './portion-cache.ts';
import type { Portion } from './portions.ts';
import type { KeptSegments } from './segment-folder.ts';

const HANDLERS = { 'load-portion': new URL('./load-portion.ts', import.meta.url).href };
const THREADS = 2;

/**
 * How long a read waits for a repository that does not answer, before it fails: a failed read stops the guest, and ends the
 * pull. Drivers in some guests give a request up after 30 s.
 */
const HOLD_MS = 15_000;
const AGAIN_AFTER_MS = 500;

/** Threads that read, compare, decrypt and decompress for all disks of a gateway. */
export const createGatewayThreads = (): ThreadPool => new ThreadPool({ threads: THREADS, handlers: HANDLERS });

/** Gives out portions of stored files: their segments are read whole and compared with their hashes, decoded, then kept. */
export class PortionReader {
  readonly #threads: ThreadPool;
  readonly #cache: PortionCache;
  readonly #kept: KeptSegments | undefined;
  readonly #signal: AbortSignal;

  constructor(options: {
    threads: ThreadPool;
    cache: PortionCache;
    /** Where segments that come from another machine are kept; undefined: nowhere. */
    kept: KeptSegments | undefined;
    /** Ends what is under way: that of the gateway, not of a request, because others may wait for the same bytes. */
    signal: AbortSignal;
  }) {
    this.#threads = options.threads;
    this.#cache = options.cache;
    this.#kept = options.kept;
    this.#signal = options.signal;
  }

  /**
   * To be released by whoever has used it.
   * @param isKept its segments are likely to be read again, and are kept on this host if they come from another
   * @throws CopierError `integrity`, `file-missing`; BlobStoreError
   */
  async borrow(portion: Portion, { isKept }: { isKept: boolean }): Promise<Lent> {
    const { key, lengthBytes } = portion;
    return await this.#cache.borrow(key, lengthBytes, async (into) => {
      const { served, segment, following, pieces, isAsStored } = portion;
      const { file, clusterBytes, compression } = served;
      const { source, encryption } = file;
      const isFar = isRemote(source);
      const kept = isFar ? this.#kept : undefined;
      const stored = { source, encryption, segment, following, clusterBytes, compression };
      const task: LoadPortionTask = { kind: 'load-portion', ...stored, pieces, isAsStored, into, kept, isKept };
      for (const deadline = Date.now() + HOLD_MS; ;) {
        try {
          await this.#threads.run(task, { signal: this.#signal, isRemote: isFar });
          return;
        } catch (error) {
          const isAway = error instanceof BlobStoreError && error.code === 'unavailable';
          if (!isAway || Date.now() > deadline) throw error;
          await sleep(AGAIN_AFTER_MS, undefined, { signal: this.#signal });
        }
      }
    });
  }
}
