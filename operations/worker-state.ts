import type { Client } from '@temporalio/client';

type DescribedQueue = Parameters<Client['workflowService']['describeTaskQueue']>[0];
/** temporal.api.enums.v1.TaskQueueType, whose enum is no dependency of ours. */
const queueType = (number: number) => number as unknown as NonNullable<DescribedQueue['taskQueueType']>;
const QUEUE_TYPES = { workflows: queueType(1), activities: queueType(2) };
/** A worker asks for tasks at least once a minute. */
const SEEN_WITHIN_MS = 90_000;

/** Whether a worker has asked for tasks of a queue just now. */
export async function isServed(client: Client, queue: string, kind: keyof typeof QUEUE_TYPES): Promise<boolean> {
  const last = await lastAsked(client, queue, kind);
  return last !== undefined && Date.now() - last < SEEN_WITHIN_MS;
}

/** When a worker last asked for tasks of a queue, by Temporal's clock, in ms since 1970. */
export async function lastAsked(
  client: Client,
  queue: string,
  kind: keyof typeof QUEUE_TYPES,
): Promise<number | undefined> {
  const { pollers } = await client.workflowService.describeTaskQueue({
    namespace: client.options.namespace,
    taskQueue: { name: queue },
    taskQueueType: QUEUE_TYPES[kind],
  });
  const times = pollers.map(({ lastAccessTime }) => Number(lastAccessTime?.seconds ?? 0) * 1000);
  return times.length === 0 ? undefined : Math.max(...times);
}
