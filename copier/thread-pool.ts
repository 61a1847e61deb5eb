import { Worker } from 'node:worker_threads';
import { PartBuffers } from './part-buffers.ts';
import { recordError, reviveError } from './thread-errors.ts';
import { COPIER_HANDLERS } from './thread-handlers.ts';
import type { FromThread, ThreadData, ToThread } from './thread-messages.ts';
import type { ThreadTask } from './thread-task.ts';

export interface ThreadPoolOptions {
  threads: number;
  /** Tasks a thread works on at once: the next one's read is under way while one is hashed. Default 2. */
  tasksPerThread?: number;
  /** The same, beside those, of tasks that read from another machine. Default 6: with segments of 4 MiB that hides 100 ms at 400 MiB/s. */
  remoteTasksPerThread?: number;
  /** Kind of task → URL of the module that exports `handle`. Default: the copier's own. */
  handlers?: Readonly<Record<string, string>>;
}

export interface RunOptions {
  signal: AbortSignal;
  /** It reads from another machine: it waits more than it works, so a thread takes more of its kind, beside the others. */
  isRemote?: boolean;
  /** Answers `ThreadContext.ask`; what it throws rejects the question. */
  onAsk?: (question: unknown) => unknown;
  /** Memory of the task that goes over to the thread, instead of being copied there: the caller has it no more. */
  moved?: readonly ArrayBuffer[];
  /** Tasks with the same word run in the same thread, until `release` is called with a beginning of the word. */
  together?: string;
}

/** The thread that ran a task ended without having answered: out of memory, or an error outside any task. */
export class ThreadCrashed extends Error {
  override readonly name = 'ThreadCrashed';
}

interface Run {
  id: number;
  task: ThreadTask;
  options: RunOptions;
  outcome: PromiseWithResolvers<unknown>;
  stopListening: () => void;
}

interface Thread {
  worker: Worker;
  runs: Map<number, Run>;
  releases: Map<number, PromiseWithResolvers<unknown>>;
}

/**
 * Threads that run tasks, first come, first served. They start with the first task, stay until the pool is disposed, and
 * keep the process alive only while they work.
 */
export class ThreadPool implements AsyncDisposable {
  /** Memory that threads fill and this one stores from. */
  readonly partBuffers = new PartBuffers();
  readonly #size: number;
  readonly #tasksPerThread: { local: number; remote: number };
  readonly #handlers: Readonly<Record<string, string>>;
  readonly #threads = new Set<Thread>();
  readonly #waiting: Run[] = [];
  /** Threads that words of `together` are bound to. */
  readonly #bound = new Map<string, Thread>();
  #lastId = 0;
  #disposed = false;

  constructor({
    threads,
    tasksPerThread = 2,
    remoteTasksPerThread = 6,
    handlers = COPIER_HANDLERS,
  }: ThreadPoolOptions) {
    if (!(threads >= 1) || !(tasksPerThread >= 1) || !(remoteTasksPerThread >= 1))
      throw new RangeError('a thread pool needs at least one thread and task');
    this.#size = threads;
    this.#tasksPerThread = { local: tasksPerThread, remote: remoteTasksPerThread };
    this.#handlers = handlers;
  }

  /** Tasks of a kind that can be at work at once. A caller that keeps a few more than this submitted keeps every thread busy. */
  capacity({ isRemote = false }: Pick<RunOptions, 'isRemote'> = {}): number {
    return this.#size * (isRemote ? this.#tasksPerThread.remote : this.#tasksPerThread.local);
  }

  /**
   * Runs a task and returns what its handler returned.
   * After an abort it settles only when the handler has: nothing of the task is in flight any more.
   * @throws the handler's error, of the same class if it is a BlobStoreError or CopierError, else an Error of the same
   * `name`; the signal's reason; ThreadCrashed
   */
  async run<T>(task: ThreadTask, options: RunOptions): Promise<T> {
    if (this.#disposed) throw new Error('the thread pool is closed');
    options.signal.throwIfAborted();
    const id = ++this.#lastId;
    const outcome = Promise.withResolvers<unknown>();
    const onAbort = () => this.#abort(run);
    const stopListening = () => options.signal.removeEventListener('abort', onAbort);
    const run: Run = { id, task, options, outcome, stopListening };
    options.signal.addEventListener('abort', onAbort, { once: true });
    this.#waiting.push(run);
    this.#dispatch();
    try {
      return (await outcome.promise) as T;
    } catch (error) {
      options.signal.throwIfAborted();
      throw error;
    } finally {
      stopListening();
    }
  }

  /** Closes, in every thread, the resources whose key starts with `prefix`. Their tasks must have settled. */
  async release(prefix: string): Promise<void> {
    for (const word of this.#bound.keys()) if (`${word}/`.startsWith(prefix)) this.#bound.delete(word);
    const closing = [...this.#threads].map((thread) => {
      const releaseId = ++this.#lastId;
      const closed = Promise.withResolvers<unknown>();
      thread.releases.set(releaseId, closed);
      thread.worker.ref();
      send(thread, { type: 'release', releaseId, prefix });
      return closed.promise;
    });
    const failed = (await Promise.allSettled(closing)).find((outcome) => outcome.status === 'rejected');
    if (failed) throw failed.reason;
  }

  /** Closes all resources and ends the threads. Tasks that still run are rejected. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const run of this.#waiting.splice(0)) run.outcome.reject(new Error('the thread pool is closed'));
    const threads = [...this.#threads];
    for (const thread of threads) {
      for (const run of thread.runs.values()) this.#abort(run, new Error('the thread pool is closed'));
    }
    try {
      await Promise.allSettled(
        threads.flatMap((thread) => [...thread.runs.values()].map((run) => run.outcome.promise)),
      );
      await this.release('');
    } finally {
      await Promise.all(threads.map((thread) => thread.worker.terminate()));
    }
  }

  #abort(run: Run, reason: unknown = run.options.signal.reason): void {
    const waiting = this.#waiting.indexOf(run);
    if (waiting >= 0) {
      this.#waiting.splice(waiting, 1);
      run.outcome.reject(reason);
      return;
    }
    for (const thread of this.#threads) {
      if (thread.runs.has(run.id)) send(thread, { type: 'abort', id: run.id, reason: recordError(reason) });
    }
  }

  #dispatch(): void {
    for (let next = 0; next < this.#waiting.length;) {
      const run = this.#waiting[next];
      const thread = run && this.#threadFor(run);
      if (!thread) {
        next++; // threads have their fill of its kind, or its own one has
        continue;
      }
      this.#waiting.splice(next, 1);
      try {
        send(thread, { type: 'run', id: run.id, task: run.task }, run.options.moved);
      } catch (error) {
        run.outcome.reject(error); // a task that cannot be cloned
        continue;
      }
      thread.runs.set(run.id, run);
      thread.worker.ref();
    }
  }

  #threadFor({ options: { together, isRemote = false } }: Run): Thread | undefined {
    const bound = together === undefined ? undefined : this.#bound.get(together);
    if (bound) return this.#hasRoom(bound, isRemote) ? bound : undefined;
    const thread = this.#idlest(isRemote);
    if (thread && together !== undefined) this.#bound.set(together, thread);
    return thread;
  }

  #hasRoom({ runs }: Thread, isRemote: boolean): boolean {
    let alike = 0;
    for (const { options } of runs.values()) if ((options.isRemote ?? false) === isRemote) alike += 1;
    return alike < (isRemote ? this.#tasksPerThread.remote : this.#tasksPerThread.local);
  }

  /** The thread with the fewest tasks that takes one more of the kind, or a new one; undefined when all have their fill. */
  #idlest(isRemote: boolean): Thread | undefined {
    let idlest: Thread | undefined;
    for (const thread of this.#threads) {
      if (this.#hasRoom(thread, isRemote) && thread.runs.size < (idlest?.runs.size ?? Infinity)) idlest = thread;
    }
    if (this.#threads.size < this.#size && idlest?.runs.size !== 0) return this.#start();
    return idlest;
  }

  #start(): Thread {
    const worker = new Worker(new URL('./thread.ts', import.meta.url), {
      workerData: { handlers: this.#handlers } satisfies ThreadData,
      execArgv: [],
      name: 'copier',
      // Bytes live outside the heap; a small young generation keeps a thread's memory small.
      resourceLimits: { maxYoungGenerationSizeMb: 8 },
    });
    const thread: Thread = { worker, runs: new Map(), releases: new Map() };
    let failure: unknown;
    worker.unref();
    worker.on('message', (message: FromThread) => this.#receive(thread, message));
    worker.on('error', (error: unknown) => {
      failure = error;
    });
    worker.on('exit', (exitCode) => this.#lost(thread, exitCode, failure));
    this.#threads.add(thread);
    return thread;
  }

  #receive(thread: Thread, message: FromThread): void {
    switch (message.type) {
      case 'done':
      case 'failed': {
        const run = thread.runs.get(message.id);
        thread.runs.delete(message.id);
        this.#dispatch();
        if (message.type === 'done') run?.outcome.resolve(message.result);
        else run?.outcome.reject(reviveError(message.error));
        break;
      }
      case 'ask':
        void answer(thread, thread.runs.get(message.id), message.askId, message.question);
        break;
      case 'released': {
        const closed = thread.releases.get(message.releaseId);
        thread.releases.delete(message.releaseId);
        if (message.error) closed?.reject(reviveError(message.error));
        else closed?.resolve(undefined);
        break;
      }
    }
    if (thread.runs.size === 0 && thread.releases.size === 0) thread.worker.unref();
  }

  #lost(thread: Thread, exitCode: number, cause: unknown): void {
    this.#threads.delete(thread);
    for (const [word, bound] of this.#bound) if (bound === thread) this.#bound.delete(word);
    const what = cause instanceof Error ? cause.message : `exit code ${exitCode}`;
    for (const run of thread.runs.values()) {
      run.outcome.reject(new ThreadCrashed(`the thread running a ${run.task.kind} task ended: ${what}`, { cause }));
    }
    thread.runs.clear();
    for (const closed of thread.releases.values()) closed.resolve(undefined); // what it held is closed with it
    thread.releases.clear();
    if (!this.#disposed) this.#dispatch();
  }
}

async function answer(thread: Thread, run: Run | undefined, askId: number, question: unknown): Promise<void> {
  try {
    const onAsk = run?.options.onAsk;
    if (!onAsk) throw new Error('nobody answers questions of this task');
    send(thread, { type: 'answer', askId, value: await onAsk(question) });
  } catch (error) {
    send(thread, { type: 'refuse', askId, error: recordError(error) });
  }
}

function send(thread: Thread, message: ToThread, moved: readonly ArrayBuffer[] = []): void {
  thread.worker.postMessage(message, moved);
}
