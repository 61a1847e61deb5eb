/** Entry of a copier thread: runs the tasks it is sent, keeps connections and buffers between them. */
import { parentPort, workerData } from 'node:worker_threads';
import { recordError, reviveError } from './thread-errors.ts';
import type { FromThread, ThreadData, ToThread } from './thread-messages.ts';
import { ThreadResources } from './thread-resources.ts';
import { Moved, SEGMENT_BYTES, type TaskHandler, type ThreadContext, type ThreadTask } from './thread-task.ts';
import { TaskBuffers } from './thread-buffers.ts';

if (!parentPort) throw new Error('copier/thread.ts runs in a worker thread');
const port = parentPort;
const { handlers } = workerData as ThreadData;
const loaded = new Map<string, Promise<TaskHandler>>();
const resources = new ThreadResources();
const running = new Map<number, AbortController>();
const questions = new Map<number, PromiseWithResolvers<unknown>>();
let lastAskId = 0;

const tell = (message: FromThread, moved: readonly ArrayBuffer[] = []) => port.postMessage(message, moved);

port.on('message', (message: ToThread) => {
  switch (message.type) {
    case 'run':
      void run(message.id, message.task);
      break;
    case 'abort':
      running.get(message.id)?.abort(reviveError(message.reason));
      break;
    case 'answer':
      questions.get(message.askId)?.resolve(message.value);
      questions.delete(message.askId);
      break;
    case 'refuse':
      questions.get(message.askId)?.reject(reviveError(message.error));
      questions.delete(message.askId);
      break;
    case 'release':
      resources.release(message.prefix).then(
        () => tell({ type: 'released', releaseId: message.releaseId }),
        (error: unknown) => tell({ type: 'released', releaseId: message.releaseId, error: recordError(error) }),
      );
      break;
  }
});

async function run(id: number, task: ThreadTask): Promise<void> {
  const controller = new AbortController();
  running.set(id, controller);
  const buffers = new TaskBuffers();
  const context: ThreadContext = {
    signal: controller.signal,
    ask(question) {
      const askId = ++lastAskId;
      const answer = Promise.withResolvers<unknown>();
      questions.set(askId, answer);
      tell({ type: 'ask', id, askId, question });
      return answer.promise;
    },
    resource: (key, open) => resources.get(key, open),
    dropResource: (key, broken) => resources.drop(key, broken),
    buffer: (sizeBytes = SEGMENT_BYTES) => buffers.take(sizeBytes),
  };
  try {
    const handle = await handlerOf(task.kind);
    const result = await handle(task, context);
    if (result instanceof Moved) tell({ type: 'done', id, result: result.value }, result.buffers);
    else tell({ type: 'done', id, result });
  } catch (error) {
    tell({ type: 'failed', id, error: recordError(error) });
  } finally {
    buffers.giveBack();
    running.delete(id);
  }
}

function handlerOf(kind: string): Promise<TaskHandler> {
  let handler = loaded.get(kind);
  if (!handler) {
    const url = handlers[kind];
    if (url === undefined) return Promise.reject(new Error(`no handler for tasks of kind "${kind}"`));
    handler = import(url).then((module: { handle: TaskHandler }) => module.handle);
    loaded.set(kind, handler);
  }
  return handler;
}
