import type { Command } from 'commander';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Report } from '../../schemas/report.ts';
import { action, type CommandContext } from '../context.ts';
import { collected, parseAddress, parseDuration } from '../schedule-flags.ts';

interface ReportFlags {
  since: number;
  promise?: number;
  webhook?: boolean;
  webhookFile?: string;
  mail?: string[];
}

/** Waits between attempts to deliver a report that a person waits for. */
const AGAIN_AFTER_MS = [1000, 3000, 9000];

export function addReportCommand(program: Command): void {
  program
    .command('report')
    .description('tell what ran, what failed and why, and which VMs are not protected as promised')
    .option('--since <span>', 'of how long (default 24h)', parseDuration, 86_400)
    .option(
      '--promise <span>',
      "how old the newest good backup of a VM may be (default: twice its schedule's longest interval)",
      parseDuration,
    )
    .option('--webhook', 'post it as JSON to the address of HOLDFAST_REPORT_WEBHOOK or config.json')
    .option('--webhook-file <path>', 'post it to the address in this file')
    .option('--mail <address...>', 'mail it, by the SMTP server of config.json', collected(parseAddress))
    .addHelpText(
      'after',
      '\nExamples:\n  $ holdfast report --since 7d\n  $ holdfast report --promise 26h --json' +
        '\n  $ holdfast report --mail ops@example.org\n  $ holdfast schedule create --report --at 08:00 --mail ops@example.org',
    )
    .action(
      action(async (context, flags: ReportFlags) => {
        const catalog = await context.catalog();
        await lookForMissed(context);
        const now = new Date();
        const { buildReport } = await import('../../operations/build-report.ts');
        const report = await buildReport(catalog, {
          id: randomUUID(),
          since: new Date(now.getTime() - flags.since * 1000).toISOString(),
          until: now.toISOString(),
          promiseSeconds: flags.promise ?? null,
        });
        const { reportText } = await import('../../operations/report-text.ts');
        context.output.result(report, () => reportText(report));
        await deliver(context, flags, report);
      }),
    );
}

/** What Temporal alone knows is noted first; a report without it is better than none. */
async function lookForMissed(context: CommandContext): Promise<void> {
  const catalog = await context.catalog();
  const schedules = await catalog.schedules.list();
  if (schedules.length === 0) return;
  try {
    const client = await context.client();
    const { checkSchedule } = await import('../../operations/schedules.ts');
    for (const record of schedules) await checkSchedule({ catalog, client }, record);
  } catch (error) {
    if (!(error instanceof HoldfastError && error.type === 'TemporalUnreachable')) throw error;
    context.output.note('Temporal does not answer: runs that were missed since are not in this report');
  }
}

async function deliver(context: CommandContext, flags: ReportFlags, report: Report): Promise<void> {
  const { webhook, webhookFile, mail = [] } = flags;
  if (webhook !== true && webhookFile === undefined && mail.length === 0) return;
  const { mailReport, postReport, webhookAddress } = await import('../../operations/deliver-report.ts');
  const settings = context.installation.report;
  if (webhook === true || webhookFile !== undefined) {
    const address = await webhookAddress(webhookFile === undefined ? settings : { webhookFile });
    await patiently(context, () => postReport(address, report));
    context.output.note(`posted to ${address.host}`);
  }
  for (const to of mail) {
    await patiently(context, () => mailReport(settings, to, report));
    context.output.note(`mailed to ${to}`);
  }
}

async function patiently(context: CommandContext, send: () => Promise<void>): Promise<void> {
  for (const wait of [...AGAIN_AFTER_MS, null]) {
    try {
      await send();
      return;
    } catch (error) {
      if (wait === null || !(error instanceof HoldfastError && error.type === 'ReportNotDelivered')) throw error;
      context.output.note(`${error.message}; trying again`);
      await sleep(wait);
    }
  }
}
