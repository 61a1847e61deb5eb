import { RatePace, type Pace } from '../../copier/pace.ts';
import { readBandwidth } from '../../repository/bandwidth.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { rateAt, type Bandwidth } from '../../schemas/bandwidth.ts';

/** How old the known limit of a repository may be while bytes pass. */
const KNOWN_FOR_MS = 5000;

/**
 * The pace of each repository on this host: one for all that its worker writes there, and reads of it in the background. The
 * limit is read from the repository again while bytes pass.
 */
export class Paces {
  readonly #known = new Map<string, KnownLimit>();
  readonly #log: (line: string) => void;

  constructor(log: (line: string) => void) {
    this.#log = log;
  }

  /** @throws BlobStoreError, RepositoryError when the limit cannot be read at the beginning */
  async of(store: BlobStore, repositoryId: string): Promise<Pace> {
    let known = this.#known.get(repositoryId);
    if (known === undefined) {
      known = new KnownLimit(this.#log);
      this.#known.set(repositoryId, known);
    }
    return await known.paceFor(store);
  }
}

class KnownLimit {
  readonly #log: (line: string) => void;
  readonly #pace: RatePace;
  #store: BlobStore | undefined;
  #limit: Bandwidth | undefined;
  #readMs = -Infinity;
  #reading = false;

  constructor(log: (line: string) => void) {
    this.#log = log;
    this.#pace = new RatePace(() => this.#rate());
  }

  async paceFor(store: BlobStore): Promise<Pace> {
    this.#store = store;
    this.#limit = await readBandwidth(store);
    this.#readMs = performance.now();
    return this.#pace;
  }

  #rate(): number | null {
    if (performance.now() - this.#readMs > KNOWN_FOR_MS && !this.#reading) void this.#readAgain();
    return this.#limit === undefined ? null : rateAt(this.#limit, Date.now());
  }

  /** A limit that cannot be read stays as it was known: the copy finds out by itself if the repository is gone. */
  async #readAgain(): Promise<void> {
    if (this.#store === undefined) return;
    this.#reading = true;
    try {
      this.#limit = await readBandwidth(this.#store);
    } catch (error) {
      this.#log(`the bandwidth limit stays as it was: ${error instanceof Error ? error.message : String(error)}`);
    } finally {
      this.#readMs = performance.now();
      this.#reading = false;
    }
  }
}
