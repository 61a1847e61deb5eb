import type { Command } from 'commander';
import { action } from '../context.ts';
import { table } from '../output.ts';

export function addJobCommands(program: Command): void {
  const job = program.command('job').description('runs of operations');
  job
    .command('ls')
    .description('list runs, newest first')
    .option('--running', 'only those that go on')
    .addHelpText('after', '\nExample:\n  $ holdfast job ls --running')
    .action(
      action(async (context, flags: { running?: boolean }) => {
        const { listJobs } = await import('../../operations/jobs.ts');
        const jobs = await listJobs(await context.client(), { running: flags.running ?? false });
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
    .addHelpText('after', '\nExample:\n  $ holdfast job show takeBackup-3f2c9a41')
    .action(
      action(async (context, id: string) => {
        const { describeJob } = await import('../../operations/jobs.ts');
        const shown = await describeJob(await context.client(), id);
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
    .addHelpText('after', '\nExample:\n  $ holdfast job cancel takeBackup-web-1-20261121-120000-3f2c')
    .action(
      action(async (context, id: string, flags: { wait: boolean }) => {
        const { cancelJob } = await import('../../operations/jobs.ts');
        const client = await context.client();
        context.output.note(`cancelling ${id}`);
        const after = await cancelJob(client, id, flags);
        context.output.result(after, () => `${id}  ${after.status}`);
      }),
    );
}
