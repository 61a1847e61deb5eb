import { describe, expect, it } from 'vitest';
import { CopierError } from '../../copier/contract.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { BlobStoreError } from '../../repository/blob-store.ts';
import type { OddTask } from './fixtures/odd-tasks.ts';

const handlers = { odd: new URL('./fixtures/odd-tasks.ts', import.meta.url).href };
const odd = (what: OddTask['what'], value?: unknown): OddTask => ({ kind: 'odd', what, value });
const never = { signal: new AbortController().signal };

function allAtWork(count: number) {
  const all = Promise.withResolvers<undefined>();
  let now = 0;
  let most = 0;
  return {
    arrive: async () => {
      most = Math.max(most, ++now);
      if (now === count) all.resolve(undefined);
      await all.promise;
    },
    leave: () => now--,
    most: () => most,
  };
}

describe('ThreadPool', () => {
  it('runs a task in a thread and returns its result', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    expect(await pool.run(odd('echo', { n: 1, bytes: new Uint8Array([1, 2]) }), never)).toEqual({
      n: 1,
      bytes: new Uint8Array([1, 2]),
    });
  });

  it('spreads tasks over its threads and queues the rest', async () => {
    await using pool = new ThreadPool({ threads: 2, handlers });
    const threads = await Promise.all(Array.from({ length: 9 }, () => pool.run<number>(odd('thread'), never)));
    expect(new Set(threads).size).toBe(2);
  });

  it('never runs more tasks in a thread than it was told to', async () => {
    await using pool = new ThreadPool({ threads: 1, tasksPerThread: 2, handlers });
    let most = 0;
    let now = 0;
    const one = async () => {
      await pool.run(odd('sleep'), { ...never, onAsk: () => (most = Math.max(most, ++now)) });
      now--;
    };
    await Promise.all(Array.from({ length: 6 }, one));
    expect(most).toBeLessThanOrEqual(2);
  });

  it('takes more tasks that read from another machine, beside the others', async () => {
    await using pool = new ThreadPool({ threads: 1, tasksPerThread: 2, remoteTasksPerThread: 5, handlers });
    // Each task stays until so many of its kind are at work at once; then all may end.
    const kinds = { near: allAtWork(2), far: allAtWork(5) };
    const one = async (kind: 'near' | 'far') => {
      await pool.run(odd('sleep'), { ...never, isRemote: kind === 'far', onAsk: kinds[kind].arrive });
      kinds[kind].leave();
    };
    await Promise.all((['far', 'far', 'near'] as const).flatMap((kind) => Array.from({ length: 5 }, () => one(kind))));
    expect([kinds.near.most(), kinds.far.most()]).toEqual([2, 5]);
    expect([pool.capacity(), pool.capacity({ isRemote: true })]).toEqual([2, 5]);
  });

  it('lets a task ask the main thread', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    const onAsk = async (question: unknown) => Number(question) * 10;
    expect(await pool.run(odd('ask'), { ...never, onAsk })).toEqual([10, 20]);
  });

  it('rejects the question with what onAsk throws', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    const onAsk = () => {
      throw new CopierError('journal-mismatch', 'other map', { file: 'j' });
    };
    await expect(pool.run(odd('ask'), { ...never, onAsk })).rejects.toMatchObject({
      name: 'CopierError',
      code: 'journal-mismatch',
      file: 'j',
    });
  });

  it('keeps class, code, subject and cause of errors', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    const stored = await pool.run(odd('store-error'), never).catch((error: unknown) => error);
    expect(stored).toBeInstanceOf(BlobStoreError);
    expect(stored).toMatchObject({ code: 'full', key: 'a/b', message: 'no space left', cause: { code: 'ENOSPC' } });
    const copied = await pool.run(odd('copier-error'), never).catch((error: unknown) => error);
    expect(copied).toBeInstanceOf(CopierError);
    expect(copied).toMatchObject({ code: 'integrity', file: 'full.qcow2' });
  });

  it('refuses an unknown kind of task', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    await expect(pool.run({ kind: 'nonsense' }, never)).rejects.toThrow('no handler for tasks of kind "nonsense"');
  });

  it('aborts a running task and settles only when its handler has', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    const controller = new AbortController();
    const asked: unknown[] = [];
    const onAsk = (question: unknown) => {
      asked.push(question);
      if (question === 'started') controller.abort(new Error('cancelled by test'));
    };
    await expect(pool.run(odd('wait-for-abort'), { signal: controller.signal, onAsk })).rejects.toThrow(
      'cancelled by test',
    );
    expect(asked).toEqual(['started', 'settling: cancelled by test']);
  });

  it('takes an aborted task out of the queue', async () => {
    await using pool = new ThreadPool({ threads: 1, tasksPerThread: 1, handlers });
    const controller = new AbortController();
    const first = pool.run(odd('thread'), never);
    const second = pool.run(odd('thread'), { signal: controller.signal });
    controller.abort(new Error('no longer wanted'));
    await expect(second).rejects.toThrow('no longer wanted');
    expect(await first).toBeGreaterThan(0);
  });

  it.each(['exit', 'throw-outside'] as const)(
    'rejects the tasks of a thread that ends (%s) and replaces it',
    async (how) => {
      await using pool = new ThreadPool({ threads: 1, handlers });
      const before = await pool.run<number>(odd('thread'), never);
      await expect(pool.run(odd(how), never)).rejects.toMatchObject({ name: 'ThreadCrashed' });
      expect(await pool.run<number>(odd('thread'), never)).not.toBe(before);
    },
  );

  it('opens a resource once per thread and closes it by prefix', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    await pool.run(odd('resource', 'disk-1/nbd'), never);
    await pool.run(odd('resource', 'disk-1/nbd'), never);
    await pool.run(odd('resource', 'disk-2/nbd'), never);
    await pool.release('disk-1/');
    expect(await pool.run(odd('resource', 'disk-1/nbd'), never)).toEqual([
      'open disk-1/nbd',
      'open disk-2/nbd',
      'close disk-1/nbd',
      'open disk-1/nbd',
    ]);
  });

  it('does not keep a resource that failed to open', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    await expect(pool.run(odd('failing-resource', 1), never)).rejects.toThrow('attempt 1');
    await expect(pool.run(odd('failing-resource', 2), never)).rejects.toThrow('attempt 2');
  });

  it('gives page-aligned buffers from task to task', async () => {
    await using pool = new ThreadPool({ threads: 1, handlers });
    const expected = { lengths: [4194304, 8192], offsets: [0, 0] };
    expect(await pool.run(odd('buffer'), never)).toEqual({ ...expected, marked: 0 });
    expect(await pool.run(odd('buffer'), never)).toEqual({ ...expected, marked: 77 });
  });

  it('rejects tasks after it was disposed', async () => {
    const pool = new ThreadPool({ threads: 1, handlers });
    await pool.run(odd('echo', 1), never);
    await pool[Symbol.asyncDispose]();
    await expect(pool.run(odd('echo', 1), never)).rejects.toThrow('closed');
  });
});
