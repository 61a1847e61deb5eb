import { WorkflowNotFoundError, type Client, type WorkflowExecutionInfo } from '@temporalio/client';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '../schemas/failures.ts';
import type { OperationProgress } from '../schemas/plan.ts';
import { searchAttributes } from '../schemas/search-attributes.ts';
import { describeFailure } from './describe-failure.ts';
import { whyRetried } from './retried-step.ts';

/** A run of an operation, as command line and API show it. */
export interface Job {
  id: string;
  operation: string;
  vm: string | null;
  status: string;
  step: string | null;
  waitingFor: string | null;
  startedAt: string;
  endedAt: string | null;
}

export interface JobDetails extends Job {
  result: unknown;
  failure: { type: string; message: string } | null;
}

const LIST_LIMIT = 100;

/** The newest hundred, newest first. */
export async function listJobs(client: Client, { running }: { running: boolean }): Promise<Job[]> {
  const query = `HoldfastOperation IS NOT NULL${running ? ' AND ExecutionStatus = "Running"' : ''}`;
  const jobs: Job[] = [];
  for await (const run of client.workflow.list({ query, pageSize: LIST_LIMIT })) {
    jobs.push(jobOf(run));
    if (jobs.length >= LIST_LIMIT) break;
  }
  return jobs;
}

/** @throws HoldfastError JobNotFound */
export async function describeJob(client: Client, id: string): Promise<JobDetails> {
  const handle = client.workflow.getHandle(id);
  try {
    const info = await handle.describe();
    const job = jobOf(info);
    if (info.status.name !== 'RUNNING') {
      const outcome = await handle.result().then(
        (result: unknown) => ({ result, failure: null }),
        (error: unknown) => {
          const { type, message } = describeFailure(error);
          return { result: null, failure: { type, message } };
        },
      );
      return { ...job, ...outcome };
    }
    const progress = await handle.query<OperationProgress>('progress').catch(() => undefined);
    const { step = null } = progress ?? {};
    const waitingFor = progress?.waitingFor ?? whyRetried(info.raw.pendingActivities ?? []) ?? null;
    return { ...job, step, waitingFor, result: null, failure: null };
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) {
      throw new HoldfastError('JobNotFound', `job ${id} is not known; see: holdfast job ls`, { cause: error });
    }
    throw error;
  }
}

/**
 * Asks a run to stop and to undo what it did; one that is over is left as it is. Gives the job as it is then.
 * @throws HoldfastError JobNotFound
 */
export async function cancelJob(client: Client, id: string, { wait }: { wait: boolean }): Promise<JobDetails> {
  const before = await describeJob(client, id);
  if (before.status !== 'RUNNING') return before;
  const handle = client.workflow.getHandle(id);
  await handle.cancel();
  if (wait) while ((await handle.describe()).status.name === 'RUNNING') await sleep(300);
  return await describeJob(client, id);
}

const jobOf = (run: Omit<WorkflowExecutionInfo, 'raw'>): Job => ({
  id: run.workflowId,
  operation: run.typedSearchAttributes.get(searchAttributes.operation) ?? run.type,
  vm: run.typedSearchAttributes.get(searchAttributes.vm) ?? null,
  status: run.status.name,
  step: null,
  waitingFor: null,
  startedAt: run.startTime.toISOString(),
  endedAt: run.closeTime?.toISOString() ?? null,
});
