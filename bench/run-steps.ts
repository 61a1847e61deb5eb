import type { Client } from '@temporalio/client';

/** One activity of a run, in milliseconds since the run began. */
export interface Step {
  name: string;
  scheduledMs: number;
  /** How long it waited for a worker. */
  waitedMs: number;
  tookMs: number;
}

/** Where the time of the newest run of a workflow went, read from its history. */
export async function stepsOfLastRun(
  client: Client,
  workflowType: string,
): Promise<{ steps: Step[]; totalMs: number }> {
  const [newest] = await Array.fromAsync(
    client.workflow.list({ query: `WorkflowType = '${workflowType}'`, pageSize: 1 }),
  );
  if (newest === undefined) throw new Error(`no run of ${workflowType}`);
  const { events } = await client.workflow.getHandle(newest.workflowId, newest.runId).fetchHistory();
  const steps = new Map<string, Step>();
  let beganMs = 0;
  let lastMs = 0;
  for (const event of events ?? []) {
    lastMs = Number(event.eventTime?.seconds ?? 0) * 1000 + (event.eventTime?.nanos ?? 0) / 1e6;
    beganMs ||= lastMs;
    const name = event.activityTaskScheduledEventAttributes?.activityType?.name;
    if (name != null) steps.set(String(event.eventId), { name, scheduledMs: lastMs - beganMs, waitedMs: 0, tookMs: 0 });
    const started = steps.get(String(event.activityTaskStartedEventAttributes?.scheduledEventId));
    if (started !== undefined) started.waitedMs = lastMs - beganMs - started.scheduledMs;
    const ended = steps.get(String(event.activityTaskCompletedEventAttributes?.scheduledEventId));
    if (ended !== undefined) ended.tookMs = lastMs - beganMs - ended.scheduledMs - ended.waitedMs;
  }
  return { steps: [...steps.values()], totalMs: lastMs - beganMs };
}
