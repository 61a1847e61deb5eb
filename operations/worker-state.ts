import type { Client } from '@temporalio/client';

type DescribedQueue = Parameters<Client['workflowService']['describeTaskQueue']>[0];
/** temporal.api.enums.v1.TaskQueueType, whose enum is no dependency of ours. */
const queueType = (number: number) => number as NonNullable<DescribedQueue['taskQueueType']>;
const QUEUE_TYPES = { workflows: queueType(1), activities: queueType(2) };
/** A worker asks for tasks at least once a minute. */
const SEEN_WITHIN_MS = 90_000;

/** Whether a worker has taken tasks of a queue just now. */
export async function isServed(client: Client, queue: string, kind: keyof typeof QUEUE_TYPES): Promise<boolean> {
  const { pollers } = await client.workflowService.describeTaskQueue({
    namespace: client.options.namespace,
    taskQueue: { name: queue },
    taskQueueType: QUEUE_TYPES[kind],
  });
  return pollers.some(({ lastAccessTime }) => {
    const seconds = Number(lastAccessTime?.seconds ?? 0);
    return Date.now() - seconds * 1000 < SEEN_WITHIN_MS;
  });
}
