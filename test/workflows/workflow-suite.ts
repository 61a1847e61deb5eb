import { existsSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { ApplicationFailure, WorkflowFailedError, type Client, type WorkflowHandle } from '@temporalio/client';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { DefaultLogger, Runtime, Worker, type WorkflowBundleOption } from '@temporalio/worker';
import { afterAll, beforeAll } from 'vitest';
import type { AdmissionAnswer } from '../../catalog/contract.ts';
import type { ControlActivities } from '../../activities/control/index.ts';
import type { HostActivities, HostDataActivities, HostJobActivities } from '../../activities/host/index.ts';
import { failureInterceptor } from '../../workers/failure-interceptor.ts';
import { failureTypeOf } from '../../workflows/failure-cause.ts';
import { CONTROL_QUEUE, hostDataQueue, hostJobsQueue, hostQueue } from '../../schemas/queues.ts';
import { searchAttributes } from '../../schemas/search-attributes.ts';
import { workflowBundle } from '../../workers/workflow-bundle.ts';

const ROOT = join(import.meta.dirname, '..', '..');
export const HOST = 'kvm-1';

export type Activities = ControlActivities & HostActivities & HostDataActivities & HostJobActivities;
/** The steps a test cares for; what it does not name must not be called. */
export type FakeActivities = { [Name in keyof Activities]?: (...parameters: never[]) => Promise<unknown> };

export interface WorkflowSuite {
  /** Starts the workflow beside workers that have these activities, and gives what `use` makes of it. */
  run<T>(
    workflow: string,
    request: unknown,
    activities: FakeActivities,
    use?: (handle: WorkflowHandle, client: Client) => Promise<T>,
  ): Promise<T>;
}

let isQuiet = false;

/** What goes wrong in these tests is meant to: workers log nothing. */
export function beQuiet(): void {
  if (isQuiet) return;
  isQuiet = true;
  Runtime.install({
    logger: new DefaultLogger('ERROR', () => undefined),
    telemetryOptions: { logging: { filter: 'OFF', forward: {} } },
    shutdownSignals: [],
  });
}

/** One Temporal server and one workflow bundle for a test file. */
export function workflowSuite({ workflowsPath = join(ROOT, 'workflows', 'index.ts') } = {}): WorkflowSuite {
  let environment: TestWorkflowEnvironment;
  let bundle: WorkflowBundleOption;
  beforeAll(async () => {
    beQuiet();
    const own = join(ROOT, '.tools', 'bin', 'temporal');
    [environment, bundle] = await Promise.all([
      TestWorkflowEnvironment.createLocal({
        server: {
          executable: { type: 'existing-path', path: existsSync(own) ? own : 'temporal' },
          searchAttributes: Object.values(searchAttributes),
          log: { format: 'pretty', level: 'error' },
        },
      }),
      workflowBundle(workflowsPath, join(ROOT, '.tools', 'compile-cache')),
    ]);
  }, 60_000);
  afterAll(async () => {
    await environment.teardown();
  });
  return {
    async run(workflow, request, activities, use) {
      const { nativeConnection: connection, client } = environment;
      const suffix = randomUUID().slice(0, 8);
      const queues = [CONTROL_QUEUE, hostQueue(HOST), hostDataQueue(HOST), hostJobsQueue(HOST)];
      const workers = await Promise.all(
        queues.map((taskQueue) =>
          Worker.create({
            connection,
            taskQueue,
            activities,
            interceptors: { activity: [failureInterceptor] },
            ...(taskQueue === CONTROL_QUEUE ? { workflowBundle: bundle } : {}),
          }),
        ),
      );
      const running = await client.workflow.start(workflow, {
        taskQueue: CONTROL_QUEUE,
        workflowId: `${workflow}-${suffix}`,
        args: [request],
      });
      const [first, ...others] = workers;
      if (first === undefined) throw new Error('no worker');
      const over = new AbortController();
      const helpers = others.map((worker) =>
        worker.runUntil(new Promise<void>((done) => over.signal.addEventListener('abort', () => done()))),
      );
      try {
        return await first.runUntil(
          async () => (await (use ?? ((handle) => handle.result()))(running, client)) as never,
        );
      } finally {
        over.abort();
        await Promise.all(helpers);
      }
    },
  };
}

/** A step that fails for good, the way the host and control workers report it. */
export const fails =
  (type: string, message = `${type} happened`) =>
  (): Promise<never> =>
    Promise.reject(ApplicationFailure.create({ type, message, nonRetryable: true }));

/** Notes the names of what is called, in order. */
export function recorded(activities: FakeActivities): { activities: FakeActivities; calls: string[] } {
  const calls: string[] = [];
  const noted = Object.entries(activities).map(([name, act]) => [
    name,
    (...parameters: never[]) => {
      calls.push(name);
      return act(...parameters);
    },
  ]);
  return { activities: Object.fromEntries(noted) as FakeActivities, calls };
}

/** How a run failed. */
export async function failureOf(result: Promise<unknown>): Promise<{ type: string; message: string }> {
  try {
    await result;
  } catch (error) {
    if (!(error instanceof WorkflowFailedError)) throw error;
    return { type: failureTypeOf(error.cause), message: error.cause?.message ?? '' };
  }
  throw new Error('the run did not fail');
}

export const GRANTED: AdmissionAnswer = { granted: true };
