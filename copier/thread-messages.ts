import type { ErrorRecord } from './thread-errors.ts';
import type { ThreadTask } from './thread-task.ts';

/** What the main thread tells a thread. `id` names a task, `askId` a question of it, `releaseId` a release. */
export type ToThread =
  | { type: 'run'; id: number; task: ThreadTask }
  | { type: 'abort'; id: number; reason: ErrorRecord }
  | { type: 'answer'; askId: number; value: unknown }
  | { type: 'refuse'; askId: number; error: ErrorRecord }
  | { type: 'release'; releaseId: number; prefix: string };

/** What a thread tells the main thread. */
export type FromThread =
  | { type: 'done'; id: number; result: unknown }
  | { type: 'failed'; id: number; error: ErrorRecord }
  | { type: 'ask'; id: number; askId: number; question: unknown }
  | { type: 'released'; releaseId: number; error?: ErrorRecord };

export interface ThreadData {
  handlers: Readonly<Record<string, string>>;
}
