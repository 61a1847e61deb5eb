import { ApplicationFailure, CancellationScope, isCancellation, sleep } from '@temporalio/workflow';

/**
 * Runs `work` within one budget. When it is used up the work is cancelled, waited for, and the run fails with
 * `TimeLimitReached`. The timer is the server's, so limits beyond 24 days hold.
 */
export async function withTimeLimit<T>(seconds: number, what: string, work: () => Promise<T>): Promise<T> {
  const scope = new CancellationScope();
  let reached = false;
  return await CancellationScope.cancellable(async () => {
    const timer = new CancellationScope();
    const alarm = timer
      .run(async () => {
        await sleep(seconds * 1000);
        reached = true;
        scope.cancel();
      })
      .catch((error: unknown) => {
        if (!isCancellation(error)) throw error;
      });
    try {
      return await scope.run(work);
    } catch (error) {
      if (reached) {
        throw ApplicationFailure.create({
          type: 'TimeLimitReached',
          nonRetryable: true,
          message: `${what}: the time limit of ${seconds} s was reached; the copy was stopped and undone`,
        });
      }
      throw error;
    } finally {
      timer.cancel();
      await alarm;
    }
  });
}
