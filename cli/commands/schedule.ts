import { Option, type Command } from 'commander';
import type { ShownSchedule } from '../../operations/schedules.ts';
import type { SentReport } from '../../workflows/send-report.ts';
import type { CheckedRepository } from '../../schemas/check.ts';
import type { ScheduleRunSummary, ScheduleTask } from '../../schemas/schedule.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { action, type CommandContext } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import {
  addScheduleFlags,
  changedSchedule,
  changedTask,
  scheduleOf,
  taskOf,
  type ScheduleFlags,
} from '../schedule-flags.ts';
import { listText, madeText, showText } from '../schedule-text.ts';
import { tellChecked } from './check.ts';
import { parseName } from './dev.ts';
import { vmNamed } from './vm.ts';

// Its code takes Temporal's client along, which is slow to load.
const operations = async () => await import('../../operations/schedules.ts');

export function addScheduleCommands(program: Command): void {
  const schedule = program.command('schedule').description('backups by the clock');
  addScheduleFlags(
    schedule
      .command('create')
      .description('back up VMs by the clock')
      .argument('[name]', 'its name (default: that of the offering or VM)', parseName)
      .option('--rehearsal', 'prove VMs instead: validate a backup of those that were proved longest ago')
      .addOption(
        new Option(
          '--check <repository>',
          'compare stored bytes of this repository with their hashes instead',
        ).argParser(parseName),
      )
      .option('--report', 'send a report instead'),
  )
    .addHelpText(
      'after',
      '\nExamples:\n  $ holdfast schedule create nightly --offering gold --at 02:30 --timezone Europe/Berlin --window 4h' +
        '\n  $ holdfast schedule create --vm web-1 --every 6h --jitter 10m' +
        '\n  $ holdfast schedule create monthly --offering gold --isolated --at 04:00 --day-of-month 1' +
        '\n  $ holdfast schedule create proof --rehearsal --at 22:00 --prove-within 14d --budget 4h' +
        '\n  $ holdfast schedule create --report --at 08:00 --mail ops@example.org' +
        '\n  $ holdfast schedule create --check main --at 03:00 --verify-within 30d --rate 100M',
    )
    .action(
      action(async (context, name: string | undefined, flags: ScheduleFlags) => {
        const task = taskOf(flags);
        const asked = scheduleOf(name ?? nameOf(task), task, flags);
        await checkSubjects(context, task);
        const { createSchedule } = await operations();
        const made = await createSchedule(await servicesOf(context), asked);
        context.output.result({ ...made.schedule, daylightSaving: made.daylightSaving }, () =>
          madeText(made.schedule, made.daylightSaving),
        );
      }),
    );
  addScheduleFlags(
    schedule
      .command('update')
      .description('change a schedule, from its next run on; what no flag names stays')
      .argument('<name>', 'name of the schedule', parseName),
  )
    .addHelpText('after', '\nExample:\n  $ holdfast schedule update nightly --at 03:30 --window none')
    .action(
      action(async (context, name: string, flags: ScheduleFlags) => {
        const { scheduleNamed, updateSchedule } = await operations();
        const services = await servicesOf(context);
        const { schedule: former } = await scheduleNamed(services.catalog, name);
        const changed = changedSchedule(former, changedTask(former.task, flags), flags);
        await checkSubjects(context, changed.task);
        const made = await updateSchedule(services, changed);
        context.output.result({ ...made.schedule, daylightSaving: made.daylightSaving }, () =>
          madeText(made.schedule, made.daylightSaving),
        );
      }),
    );
  schedule
    .command('ls')
    .description('list schedules: their next three runs, and the last result of each VM')
    .addHelpText('after', '\nExample:\n  $ holdfast schedule ls')
    .action(
      action(async (context) => {
        const { showSchedule } = await operations();
        const services = await servicesOf(context);
        const shown: ShownSchedule[] = [];
        for (const record of await services.catalog.schedules.list()) shown.push(await showSchedule(services, record));
        context.output.result(shown, () => listText(shown));
      }),
    );
  schedule
    .command('show')
    .description('show a schedule, its rules, its last runs and the last result of each VM')
    .argument('<name>', 'name of the schedule', parseName)
    .addHelpText('after', '\nExample:\n  $ holdfast schedule show nightly')
    .action(
      action(async (context, name: string) => {
        const { scheduleNamed, showSchedule } = await operations();
        const services = await servicesOf(context);
        const shown = await showSchedule(services, await scheduleNamed(services.catalog, name));
        const runs = await services.catalog.schedules.runs({ schedule: name, limit: 20 });
        context.output.result({ ...shown, runs }, () => showText(shown, runs));
      }),
    );
  schedule
    .command('pause')
    .description('keep a schedule from running; the runs that this prevents are recorded as missed')
    .argument('<name>', 'name of the schedule', parseName)
    .requiredOption('--note <text>', 'why; shown by `schedule ls`, and the reason of the missed runs')
    .addHelpText('after', '\nExample:\n  $ holdfast schedule pause nightly --note "storage is being moved"')
    .action(
      action(async (context, name: string, { note }: { note: string }) => {
        const { pauseSchedule } = await operations();
        const shown = await pauseSchedule(await servicesOf(context), name, note);
        context.output.result(shown, () => `schedule ${name} is paused: ${note}`);
      }),
    );
  schedule
    .command('resume')
    .alias('unpause')
    .description('let a paused schedule run again, from its next time on')
    .argument('<name>', 'name of the schedule', parseName)
    .addHelpText('after', '\nExample:\n  $ holdfast schedule resume nightly')
    .action(
      action(async (context, name: string) => {
        const { resumeSchedule } = await operations();
        const shown = await resumeSchedule(await servicesOf(context), name);
        context.output.result(shown, () => listText([shown]));
      }),
    );
  schedule
    .command('run')
    .description('run a schedule now, also a paused one')
    .argument('<name>', 'name of the schedule', parseName)
    .option('--no-wait', 'print the job and return')
    .addHelpText('after', '\nExample:\n  $ holdfast schedule run nightly --no-wait')
    .action(
      action(async (context, name: string, flags: { wait: boolean }) => {
        const [{ scheduleNamed }, { startSchedule }] = await Promise.all([
          operations(),
          import('../../operations/start.ts'),
        ]);
        const { client, catalog } = await servicesOf(context);
        const { schedule } = await scheduleNamed(catalog, name);
        const run = await startSchedule(client, schedule);
        const ended = await followOrLeave<SentReport | CheckedRepository | ScheduleRunSummary>(
          run,
          flags,
          context.output,
        );
        if (ended === undefined) return;
        if ('sentTo' in ended) {
          context.output.result(ended, () => `sent to ${ended.sentTo.join(', ')}`);
          return;
        }
        if ('damagedFiles' in ended) {
          tellChecked(ended, context.output);
          return;
        }
        const summary = ended;
        const vms = await catalog.schedules.outcomes(summary.runId);
        const { done, failed, skipped, missed } = summary;
        context.output.result({ ...summary, vms }, () =>
          [
            `${done} done, ${failed} failed, ${skipped} skipped, ${missed} missed`,
            ...vms.map(({ vm, state, reason }) => `  ${vm.name}  ${state}${reason === null ? '' : `: ${reason}`}`),
          ].join('\n'),
        );
        if (failed > 0) process.exitCode = 1;
      }),
    );
  schedule
    .command('delete')
    .description('delete a schedule; its backups, and runs that go on, stay')
    .argument('<name>', 'name of the schedule', parseName)
    .addHelpText('after', '\nExample:\n  $ holdfast schedule delete nightly')
    .action(
      action(async (context, name: string) => {
        const { deleteSchedule } = await operations();
        await deleteSchedule(await servicesOf(context), name);
        context.output.result({ name, deleted: true }, () => `schedule ${name} is deleted`);
      }),
    );
}

const servicesOf = async (context: CommandContext) => ({
  catalog: await context.catalog(),
  client: await context.client(),
});

/** @throws HoldfastError OfferingNotFound, VmNotFound, VmAmbiguous */
async function checkSubjects(context: CommandContext, task: ScheduleTask): Promise<void> {
  if (task.kind === 'report') return;
  const catalog = await context.catalog();
  if (task.kind === 'check') {
    if ((await catalog.repositories.find(task.repository)) !== undefined) return;
    throw new HoldfastError('RepositoryNotFound', `--check: ${task.repository} is not known; see: holdfast repo ls`);
  }
  if (task.offering !== null && (await catalog.offerings.find(task.offering)) === undefined) {
    throw new HoldfastError('OfferingNotFound', `--offering: ${task.offering} is not known; see: holdfast offering ls`);
  }
  for (const name of task.vms) await vmNamed(catalog, name);
}

const nameOf = (task: ScheduleTask): string => {
  if (task.kind !== 'backup') return task.kind;
  return (
    (task.offering ?? task.vms[0] ?? 'backup')
      .replaceAll(/[^A-Za-z0-9._-]/g, '-')
      .replace(/^[.-]+/, '')
      .slice(0, 64) || 'backup'
  );
};
