/** Work for one thread: plain data that survives a structured clone. `kind` names its handler in thread-handlers.ts. */
export interface ThreadTask {
  readonly kind: string;
}

/** What a task may use while it runs in its thread. */
export interface ThreadContext {
  /** Aborted when the caller of `ThreadPool.run` aborts; its reason is an Error. A handler must settle soon after. */
  readonly signal: AbortSignal;
  /** Asks the main thread (`onAsk` of `ThreadPool.run`); question and answer are plain data. */
  ask(question: unknown): Promise<unknown>;
  /**
   * Something opened once per thread and shared by its tasks: a connection, a sink, a source. It stays open until
   * `ThreadPool.release`, `dropResource` or the end of the pool. A failed `open` is not kept.
   */
  resource<T extends AsyncDisposable>(key: string, open: () => Promise<T>): Promise<T>;
  /** Closes a resource that turned out broken, so that the next `resource(key)` opens it anew. */
  dropResource(key: string, broken: AsyncDisposable): Promise<void>;
  /**
   * Page-aligned memory (fit for O_DIRECT) of at least `sizeBytes`, exactly that long, contents undefined. It belongs to
   * the task until its handler settles, then it is given to another one. Default: `SEGMENT_BYTES`.
   */
  buffer(sizeBytes?: number): Buffer;
}

/** A module that handles tasks exports one of these as `handle`. */
export type TaskHandler<T extends ThreadTask = ThreadTask, R = unknown> = (
  task: T,
  context: ThreadContext,
) => Promise<R>;

/** A result whose memory goes over to the main thread, instead of being copied there: none of it came from `buffer`. */
export class Moved<T> {
  readonly value: T;
  readonly buffers: readonly ArrayBuffer[];
  constructor(value: T, buffers: readonly ArrayBuffer[]) {
    this.value = value;
    this.buffers = buffers;
  }
}

/** Length of a segment's data before compression, and the default size of a task's buffer. */
export const SEGMENT_BYTES = 4 * 1024 * 1024;
