import type { WorkflowExecutionInfo } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/client';
import type { Command } from 'commander';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '../../schemas/failures.ts';
import type { OperationProgress } from '../../schemas/plan.ts';
import { searchAttributes } from '../../schemas/search-attributes.ts';
import { action, type CommandContext } from '../context.ts';
import { describeFailure } from '../failure.ts';
import { table } from '../output.ts';

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

export function addJobCommands(program: Command): void {
  const job = program.command('job').description('runs of operations');
  job
    .command('ls')
    .description('list runs, newest first')
    .option('--running', 'only those that go on')
    .action(
      action(async (context, flags: { running?: boolean }) => {
        const client = await context.client();
        const query =
          flags.running === true
            ? 'HoldfastOperation IS NOT NULL AND ExecutionStatus = "Running"'
            : 'HoldfastOperation IS NOT NULL';
        const jobs: Job[] = [];
        for await (const run of client.workflow.list({ query, pageSize: 100 })) {
          jobs.push(jobOf(run));
          if (jobs.length >= 100) break;
        }
        context.output.result(jobs, () =>
          table(
            ['JOB', 'OPERATION', 'VM', 'STATUS', 'STARTED', 'ENDED'],
            jobs.map((row) => [row.id, row.operation, row.vm, row.status, row.startedAt, row.endedAt]),
            'no jobs',
          ),
        );
      }),
    );
  job
    .command('show')
    .description('show a run: its step, what it waits for, or how it ended')
    .argument('<id>', 'id of the job')
    .action(
      action(async (context, id: string) => {
        const shown = await describeJob(context, id);
        context.output.result(shown, () =>
          [
            `${shown.id}  ${shown.status}`,
            `${shown.operation} of VM ${shown.vm ?? '-'}, started ${shown.startedAt}${shown.endedAt === null ? '' : `, ended ${shown.endedAt}`}`,
            ...((shown.waitingFor ?? shown.step) === null ? [] : [String(shown.waitingFor ?? shown.step)]),
            ...(shown.failure === null ? [] : [`${shown.failure.type}: ${shown.failure.message}`]),
          ].join('\n'),
        );
      }),
    );
  job
    .command('cancel')
    .description('stop a run and undo what it did; waits until that is done')
    .argument('<id>', 'id of the job')
    .option('--no-wait', 'return at once')
    .action(
      action(async (context, id: string, flags: { wait: boolean }) => {
        const client = await context.client();
        const handle = client.workflow.getHandle(id);
        const before = await describeJob(context, id);
        if (before.status === 'RUNNING') {
          await handle.cancel();
          context.output.note(`${id} is being cancelled`);
          if (flags.wait) while ((await handle.describe()).status.name === 'RUNNING') await sleep(300);
        }
        const after = await describeJob(context, id);
        context.output.result(after, () => `${id}  ${after.status}`);
      }),
    );
}

async function describeJob(
  context: CommandContext,
  id: string,
): Promise<Job & { result: unknown; failure: { type: string; message: string } | null }> {
  const client = await context.client();
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
    const progress = await handle.query<OperationProgress, []>('progress').catch(() => undefined);
    return {
      ...job,
      step: progress?.step ?? null,
      waitingFor: progress?.waitingFor ?? null,
      result: null,
      failure: null,
    };
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) {
      throw new HoldfastError('JobNotFound', `job ${id} is not known; see: holdfast job ls`, { cause: error });
    }
    throw error;
  }
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
