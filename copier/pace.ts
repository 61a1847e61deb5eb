import { setTimeout as sleep } from 'node:timers/promises';

/** How fast bytes may pass. One is shared by all that together must not be faster. */
export interface Pace {
  /** Waits until more may pass. @throws the signal's reason */
  ready(signal: AbortSignal): Promise<void>;
  /** So many bytes have passed, or are about to. */
  passed(bytes: number): void;
}

export interface Clock {
  nowMs(): number;
  wait(ms: number, signal: AbortSignal): Promise<void>;
}

const machineClock: Clock = {
  nowMs: () => performance.now(),
  wait: (ms, signal) => sleep(ms, undefined, { signal }),
};

/** A change of the rate is noticed within this while somebody waits. */
const LONGEST_WAIT_MS = 500;

/**
 * A pace by debt: what has passed is owed, the rate pays it off, and nobody goes on while anything is owed. So a piece may be
 * of any size, and over time the rate is kept.
 * @param rate bytes per second now; null = no limit. Asked again and again: it may change
 */
export class RatePace implements Pace {
  readonly #rate: () => number | null;
  readonly #clock: Clock;
  #owed = 0;
  #paidMs: number;

  constructor(rate: () => number | null, clock: Clock = machineClock) {
    this.#rate = rate;
    this.#clock = clock;
    this.#paidMs = clock.nowMs();
  }

  async ready(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      const waitMs = this.#waitMs();
      if (waitMs === 0) return;
      await this.#clock.wait(Math.min(waitMs, LONGEST_WAIT_MS), signal).catch((error: unknown) => {
        signal.throwIfAborted(); // with its reason
        throw error;
      });
    }
  }

  passed(bytes: number): void {
    this.#waitMs();
    this.#owed += bytes;
  }

  /** Pays for the time that has gone by, and tells how long the rest takes. */
  #waitMs(): number {
    const rate = this.#rate();
    const now = this.#clock.nowMs();
    this.#owed = rate === null ? 0 : Math.max(0, this.#owed - ((now - this.#paidMs) / 1000) * rate);
    this.#paidMs = now;
    return rate === null ? 0 : Math.ceil((this.#owed / rate) * 1000);
  }
}

/** Keeps to both. */
export const slower = (a: Pace, b: Pace): Pace => ({
  async ready(signal) {
    await a.ready(signal);
    await b.ready(signal);
  },
  passed(bytes) {
    a.passed(bytes);
    b.passed(bytes);
  },
});
