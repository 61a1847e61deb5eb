import { CancellationScope } from '@temporalio/workflow';

/**
 * Runs all tasks side by side. When one fails the others are cancelled and waited for, so that nothing goes on in the
 * dark; then the first failure is thrown.
 */
export async function allOrStop<T>(tasks: (() => Promise<T>)[]): Promise<T[]> {
  return await CancellationScope.cancellable(async () => {
    const scope = CancellationScope.current();
    let first: { error: unknown } | undefined;
    const settled = await Promise.allSettled(
      tasks.map(async (task) => {
        try {
          return await task();
        } catch (error) {
          if (first === undefined) {
            first = { error };
            scope.cancel();
          }
          throw error;
        }
      }),
    );
    if (first !== undefined) throw first.error;
    return settled.map((result) => (result as PromiseFulfilledResult<T>).value);
  });
}
