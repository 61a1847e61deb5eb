interface Holder {
  controller: AbortController;
  ended: Promise<unknown>;
}

/**
 * One step at a time per key. A newer attempt stops the older one of the same key and waits for its end before it
 * begins: Temporal may start a second attempt while the first still runs.
 */
export class Fence {
  readonly #holders = new Map<string, Holder>();

  async run<T>(key: string, signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    for (let older = this.#holders.get(key); older !== undefined; older = this.#holders.get(key)) {
      older.controller.abort(new Error(`a newer attempt of ${key} took over`));
      await older.ended;
    }
    signal.throwIfAborted();
    const controller = new AbortController();
    const { promise: ended, resolve } = Promise.withResolvers<undefined>();
    this.#holders.set(key, { controller, ended });
    try {
      return await work(AbortSignal.any([signal, controller.signal]));
    } finally {
      this.#holders.delete(key);
      resolve(undefined);
    }
  }

  /** Stops what runs under a key and waits for its end; nothing when nothing runs. */
  async stop(matches: (key: string) => boolean, reason: string): Promise<void> {
    const stopped = [...this.#holders].filter(([key]) => matches(key));
    for (const [, holder] of stopped) holder.controller.abort(new Error(reason));
    await Promise.all(stopped.map(([, holder]) => holder.ended));
  }
}
