import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Fence } from '../../activities/host/fence.ts';

const never = new AbortController().signal;
/** Ends when it is stopped, and not at once. */
const untilStopped = (log: string[], name: string) => async (signal: AbortSignal) => {
  log.push(`${name} begins`);
  await new Promise((done) => signal.addEventListener('abort', done));
  await delay(5);
  log.push(`${name} ends`);
  signal.throwIfAborted();
};

describe('Fence', () => {
  it('stops the older attempt and waits for its end before the newer begins', async () => {
    const fence = new Fence();
    const log: string[] = [];
    const older = fence.run('copy a vda', never, untilStopped(log, 'older'));
    const newer = fence.run('copy a vda', never, async () => {
      log.push('newer begins');
      return await Promise.resolve(7);
    });
    await expect(older).rejects.toThrow('a newer attempt of copy a vda took over');
    expect(await newer).toBe(7);
    expect(log).toEqual(['older begins', 'older ends', 'newer begins']);
  });

  it('lets one at a time through when several attempts come at once', async () => {
    const fence = new Fence();
    let running = 0;
    let most = 0;
    const attempts = [1, 2, 3, 4].map(() =>
      fence.run('k', never, async (signal) => {
        most = Math.max(most, (running += 1));
        await delay(5, undefined, { signal }).catch(() => undefined);
        running -= 1;
      }),
    );
    await Promise.allSettled(attempts);
    expect(most).toBe(1);
  });

  it('does not begin for an attempt that was cancelled while it waited', async () => {
    const fence = new Fence();
    const cancelled = new AbortController();
    const older = fence.run('k', never, untilStopped([], 'older'));
    let began = false;
    const newer = fence.run('k', cancelled.signal, async () => void (began = await Promise.resolve(true)));
    cancelled.abort(new Error('cancelled'));
    await expect(newer).rejects.toThrow('cancelled');
    await expect(older).rejects.toThrow();
    expect(began).toBe(false);
  });

  it('stops what it is told to, waits for its end, and leaves other keys alone', async () => {
    const fence = new Fence();
    const log: string[] = [];
    const vda = fence.run('copy a vda', never, untilStopped(log, 'vda'));
    const other = fence.run('copy b vda', never, async () => await delay(30, 'whole'));
    vda.catch(() => undefined);
    await fence.stop((key) => key.startsWith('copy a '), 'undone');
    expect(log).toEqual(['vda begins', 'vda ends']);
    await expect(vda).rejects.toThrow('undone');
    expect(await other).toBe('whole');
    await fence.stop(() => true, 'nothing runs');
  });

  it('is free again after a failure', async () => {
    const fence = new Fence();
    await expect(fence.run('k', never, () => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
    expect(await fence.run('k', never, () => Promise.resolve('fine'))).toBe('fine');
  });
});
