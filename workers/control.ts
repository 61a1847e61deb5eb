import { ScheduleAlreadyRunning, type Client } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { createControlActivities } from '../activities/control/index.ts';
import { openCatalog } from '../catalog/open-catalog.ts';
import { CONTROL_QUEUE } from '../schemas/queues.ts';
import { failureInterceptor } from './failure-interceptor.ts';
import type { Installation } from './installation.ts';
import { connectClient } from './connect-client.ts';
import { scheduleClockOf } from './schedule-clock.ts';
import { workflowBundle } from './workflow-bundle.ts';
import { connectWorker, installRuntime, registerSearchAttributes, runsOf } from './temporal.ts';

/** The control worker: all workflows, and the activities that need the catalog. Runs until the signal. */
export async function runControlWorker(
  { catalogUrl, temporal, heartbeatSeconds, report }: Installation,
  options: { metrics?: string | undefined; signal: AbortSignal; log: (line: string) => void },
): Promise<void> {
  installRuntime(options);
  await using catalog = await openCatalog(catalogUrl);
  const connection = await connectWorker(temporal, options.signal, options.log);
  try {
    const client = await connectClient(temporal);
    await registerSearchAttributes(client, temporal.namespace);
    await scheduleReclaim(client);
    const worker = await Worker.create({
      connection,
      namespace: temporal.namespace,
      taskQueue: CONTROL_QUEUE,
      workflowBundle: await workflowBundle(),
      activities: createControlActivities({
        catalog,
        runs: runsOf(client),
        clock: scheduleClockOf(client),
        report,
        heartbeatSeconds,
      }),
      interceptors: { activity: [failureInterceptor] },
      shutdownGraceTime: '10 seconds',
      maxConcurrentActivityTaskExecutions: 50,
    });
    options.signal.addEventListener('abort', () => worker.shutdown(), { once: true });
    options.log('control worker ready');
    if (!options.signal.aborted) await worker.run();
    await client.connection.close();
  } finally {
    await connection.close();
  }
}

/** What ended runs left is looked for every quarter of an hour; once a day also in repositories and on VMs. */
const RECLAIMS = [
  {
    scheduleId: 'holdfast-reclaim-orphans',
    every: '15 minutes',
    workflowId: 'reclaim-orphans',
    request: { quick: true },
  },
  { scheduleId: 'holdfast-reclaim-stored', every: '24 hours', workflowId: 'reclaim-stored', request: {} },
] as const;

async function scheduleReclaim(client: Client): Promise<void> {
  for (const { scheduleId, every, workflowId, request } of RECLAIMS) {
    try {
      await client.schedule.create({
        scheduleId,
        spec: { intervals: [{ every }] },
        policies: { overlap: 'SKIP', catchupWindow: '1 minute' },
        action: {
          type: 'startWorkflow',
          workflowType: 'reclaimOrphans',
          workflowId,
          taskQueue: CONTROL_QUEUE,
          args: [request],
        },
      });
    } catch (error) {
      if (!(error instanceof ScheduleAlreadyRunning)) throw error;
    }
  }
}
