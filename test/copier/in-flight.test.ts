import { describe, expect, it } from 'vitest';
import { inFlight } from '../../copier/in-flight.ts';

describe('inFlight', () => {
  it('runs all items, at most so many at once', async () => {
    let running = 0;
    let most = 0;
    const done: number[] = [];
    await inFlight([1, 2, 3, 4, 5, 6, 7], {
      limit: 3,
      stop: () => undefined,
      work: async (item) => {
        running += 1;
        most = Math.max(most, running);
        await new Promise(setImmediate);
        running -= 1;
        done.push(item);
      },
    });
    expect(most).toBe(3);
    expect(done.toSorted()).toEqual([1, 2, 3, 4, 5, 6, 7]);
  });

  it('stops the rest at the first failure, and throws only when nothing runs any more', async () => {
    const stopped = new AbortController();
    const begun: number[] = [];
    let settled = 0;
    const run = inFlight([1, 2, 3, 4, 5, 6], {
      limit: 2,
      stop: (reason) => stopped.abort(reason),
      work: async (item) => {
        begun.push(item);
        await new Promise(setImmediate);
        if (item === 2) throw new Error('second');
        while (item === 3 && !stopped.signal.aborted) await new Promise(setImmediate);
        await new Promise(setImmediate);
        settled += 1;
        if (item === 3) throw new Error('third, because it was stopped');
      },
    });
    await expect(run).rejects.toThrow('second');
    expect(begun.length).toBeLessThan(6);
    expect(settled).toBe(begun.length - 1);
  });

  it('does nothing for no items', async () => {
    await inFlight([], { limit: 1, stop: () => undefined, work: () => Promise.reject(new Error('called')) });
  });
});
