/** What the tasks of one thread share: opened once per key, closed by prefix. */
export class ThreadResources {
  readonly #opened = new Map<string, Promise<AsyncDisposable>>();

  async get<T extends AsyncDisposable>(key: string, open: () => Promise<T>): Promise<T> {
    let resource = this.#opened.get(key) as Promise<T> | undefined;
    if (!resource) {
      const opening = open();
      resource = opening;
      this.#opened.set(key, opening);
      opening.catch(() => {
        if (this.#opened.get(key) === opening) this.#opened.delete(key);
      });
    }
    return resource;
  }

  /** Does nothing when another task has replaced `broken` already. */
  async drop(key: string, broken: AsyncDisposable): Promise<void> {
    const current = this.#opened.get(key);
    if (!current || (await current.catch(() => undefined)) !== broken) return;
    if (this.#opened.get(key) === current) this.#opened.delete(key);
    await broken[Symbol.asyncDispose]();
  }

  /** Closes all whose key starts with `prefix`, each even if another one's close fails; throws the first failure. */
  async release(prefix: string): Promise<void> {
    const closing: Promise<void>[] = [];
    for (const [key, resource] of this.#opened) {
      if (!key.startsWith(prefix)) continue;
      this.#opened.delete(key);
      closing.push(
        resource.then(
          (opened) => opened[Symbol.asyncDispose](),
          () => undefined, // failed to open: its task has reported that
        ),
      );
    }
    const failed = (await Promise.allSettled(closing)).find((outcome) => outcome.status === 'rejected');
    if (failed) throw failed.reason;
  }
}
