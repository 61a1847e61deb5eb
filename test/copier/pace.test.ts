import { describe, expect, it } from 'vitest';
import { RatePace, type Clock } from '../../copier/pace.ts';

const { signal } = new AbortController();

describe('RatePace', () => {
  it('lets everything pass at once without a limit', async () => {
    const pace = new RatePace(() => null);
    pace.passed(1e12);
    await pace.ready(signal);
  });

  it('keeps the rate over time, whatever the size of the pieces', async () => {
    let nowMs = 0;
    const clock: Clock = {
      nowMs: () => nowMs,
      wait: async (ms) => {
        nowMs += ms;
      },
    };
    const pace = new RatePace(() => 1000, clock);
    for (const bytes of [100, 900, 3000, 0, 1000]) {
      await pace.ready(signal);
      pace.passed(bytes);
    }
    await pace.ready(signal);
    expect(nowMs).toBe(5000);
  });

  it('follows a rate that is raised while somebody waits', async () => {
    let rate: number | null = 1;
    const pace = new RatePace(() => rate);
    pace.passed(1e9); // thirty years
    const waiting = pace.ready(signal);
    rate = null;
    await waiting;
  });

  it('ends its wait when it is aborted, with the reason', async () => {
    const stop = new AbortController();
    const pace = new RatePace(() => 1);
    pace.passed(1000);
    const waiting = pace.ready(stop.signal);
    stop.abort(new Error('cancelled'));
    await expect(waiting).rejects.toThrow('cancelled');
  });
});
