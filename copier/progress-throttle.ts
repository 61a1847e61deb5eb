const INTERVAL_MS = 250;

/** Passes on a quarter second's worth of ticks as one report. */
export class ProgressThrottle {
  readonly #report: () => void;
  #lastMs = 0;

  constructor(report: () => void) {
    this.#report = report;
  }

  tick(): void {
    const now = performance.now();
    if (now - this.#lastMs < INTERVAL_MS) return;
    this.#lastMs = now;
    this.#report();
  }

  /** The last state is always reported. */
  end(): void {
    this.#report();
  }
}
