import { Context } from '@temporalio/activity';

/** Aborts when Temporal cancels the activity or its worker shuts down. */
export const cancellationSignal = (): AbortSignal => Context.current().cancellationSignal;

/**
 * Gives a heartbeat every two seconds while a step runs that has no progress of its own: so a killed worker is noticed
 * soon, and a cancellation arrives.
 */
export async function withHeartbeat<T>(step: string, work: () => Promise<T>): Promise<T> {
  const context = Context.current();
  const timer = setInterval(() => context.heartbeat({ step }), 2000);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}
