import { Context } from '@temporalio/activity';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { describe, expect, it } from 'vitest';
import { HoldfastError } from '../../schemas/failures.ts';
import { failureInterceptor } from '../../workers/failure-interceptor.ts';

/** What Temporal is told when a step throws. */
async function toldOf(error: Error, { attempt = 1, cancelled = false } = {}): Promise<unknown> {
  const environment = new MockActivityEnvironment({ attempt });
  if (cancelled) environment.cancel();
  return await environment.run(async () => {
    const { inbound } = failureInterceptor(Context.current());
    const execute = inbound?.execute?.bind(inbound);
    if (execute === undefined) throw new Error('no interceptor');
    return await execute({ args: [], headers: {} }, () => Promise.reject(error)).catch((told: unknown) => told);
  });
}

describe('failureInterceptor', () => {
  it.each([
    ['RepositoryFull', true],
    ['HostUnreachable', false],
  ] as const)('reports %s by its name; it is final: %s', async (type, nonRetryable) => {
    expect(await toldOf(new HoldfastError(type, 'because'))).toMatchObject({ type, nonRetryable, message: 'because' });
  });

  it.each([
    ['an error nobody foresaw', new Error('odd'), 120],
    ['a mistake in the code', new TypeError('no such property'), 5],
  ])('lets %s be tried again within a bound, so that the run has an end', async (_, error, attempts) => {
    expect(await toldOf(error, { attempt: attempts - 1 })).toBe(error);
    const last = await toldOf(error, { attempt: attempts });
    expect(last).toBeInstanceOf(ApplicationFailure);
    expect(last).toMatchObject({
      type: 'Error',
      nonRetryable: true,
      message: expect.stringContaining(error.message) as string,
    });
  });

  it('calls what a cancelled step throws a cancellation', async () => {
    expect(await toldOf(new Error('socket closed'), { cancelled: true })).toBeInstanceOf(CancelledFailure);
  });
});
