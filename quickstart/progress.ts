/** Tells step by step what happens, and stops between and within steps when the signal does. */
export class Progress {
  readonly signal: AbortSignal;
  readonly #began = performance.now();
  readonly #aborted: Promise<never>;

  constructor(signal: AbortSignal) {
    this.signal = signal;
    const { promise, reject } = Promise.withResolvers<never>();
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    promise.catch(() => undefined); // nobody may be waiting
    this.#aborted = promise;
  }

  say(line: string): void {
    const seconds = ((performance.now() - this.#began) / 1000).toFixed(1);
    process.stdout.write(`${seconds.padStart(6)} s  ${line}\n`);
  }

  /** Says what begins, then waits for it, or for the signal. */
  async step<T>(line: string, work: () => Promise<T>): Promise<T> {
    this.signal.throwIfAborted();
    this.say(line);
    return await Promise.race([work(), this.#aborted]);
  }
}
