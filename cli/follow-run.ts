import type { WorkflowHandle } from '@temporalio/client';
import { setTimeout as sleep } from 'node:timers/promises';
import { whyRetried } from '../operations/retried-step.ts';
import { copyHeartbeat, type CopyHeartbeat, type OperationProgress } from '../schemas/plan.ts';
import { showProgress, type ShownProgress } from './copy-progress.ts';
import type { Output } from './output.ts';

const ASK_EVERY_MS = 700;

/**
 * Waits for a run's result and shows meanwhile what it does: bars on a terminal, a line per step otherwise. The run goes
 * on when the command is interrupted.
 */
export async function followRun<T>(handle: WorkflowHandle, output: Output): Promise<T> {
  const result = handle.result() as Promise<T>;
  if (output.isJson) return await result;
  const shown = showProgress(output);
  const over = new AbortController();
  const watching = watch(handle, shown, over.signal);
  try {
    return await result;
  } finally {
    over.abort();
    await watching;
    shown.stop();
  }
}

/** Follows a run to its result; with `--no-wait` only prints its job and gives undefined. */
export async function followOrLeave<T>(
  handle: WorkflowHandle,
  { wait }: { wait: boolean },
  output: Output,
): Promise<T | undefined> {
  const { workflowId } = handle;
  if (!wait) {
    output.result({ jobId: workflowId }, () => `${workflowId}\nfollow it: holdfast job show ${workflowId}`);
    return undefined;
  }
  output.note(`job ${workflowId}`);
  return await followRun<T>(handle, output);
}

async function watch(handle: WorkflowHandle, shown: ShownProgress, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      const progress = await handle.query<OperationProgress>('progress');
      const pending = (await handle.describe()).raw.pendingActivities ?? [];
      shown.step({ ...progress, waitingFor: progress.waitingFor ?? whyRetried(pending) ?? null });
      shown.copies(pending.flatMap((activity) => heartbeatOf(activity.heartbeatDetails)));
    } catch {
      // Not to be had at the moment: no worker up, or the run is over. The result tells.
    }
    await sleep(ASK_EVERY_MS, undefined, { signal }).catch(() => undefined);
  }
}

function heartbeatOf(
  details: { payloads?: { data?: Uint8Array | null }[] | null } | null | undefined,
): CopyHeartbeat[] {
  const [payload] = details?.payloads ?? [];
  if (payload?.data == null) return [];
  const parsed = copyHeartbeat.safeParse(JSON.parse(Buffer.from(payload.data).toString('utf8')));
  return parsed.success && parsed.data.totalBytes > 0 ? [parsed.data] : [];
}
