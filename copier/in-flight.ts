/**
 * Runs `work` on each item with at most `limit` at once, and waits until none runs. The first failure stops the rest:
 * `stop` is called at once, no further item is begun, and it is thrown when all have settled.
 */
export async function inFlight<T>(
  items: Iterable<T>,
  { limit, stop, work }: { limit: number; stop: (reason: unknown) => void; work: (item: T) => Promise<void> },
): Promise<void> {
  let failure: { error: unknown } | undefined;
  const running = new Set<Promise<void>>();
  for (const item of items) {
    while (running.size >= limit) await Promise.race(running);
    if (failure) break;
    const run: Promise<void> = work(item)
      .catch((error: unknown) => {
        failure ??= { error };
        stop(error);
      })
      .finally(() => running.delete(run));
    running.add(run);
  }
  await Promise.all(running);
  if (failure) throw failure.error;
}
