import type { Command } from 'commander';
import type { ReclaimedOrphans } from '../../workflows/reclaim-orphans.ts';
import { runId } from '../../operations/run-id.ts';
import { CONTROL_QUEUE } from '../../schemas/queues.ts';
import { reclaimOrphansRequest } from '../../schemas/requests.ts';
import { action } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { parseName } from './dev.ts';
import { parseWhole } from './offering.ts';

export function addReclaimCommand(program: Command): void {
  program
    .command('reclaim')
    .description('undo what runs left that were ended by force, and remove files that nothing names; happens by itself')
    .option('--host <name>', 'only on this host', parseName)
    .option('--grace <seconds>', 'leave alone what is younger and of no known run (default 3600)', parseWhole)
    .option('--quick', 'only what hosts and catalog note; no look through repositories and checkpoints')
    .option('--dry-run', 'list what would be undone')
    .addHelpText('after', '\nExample:\n  $ holdfast reclaim --dry-run')
    .action(
      action(async (context, flags: { host?: string; grace?: number; quick?: boolean; dryRun?: boolean }) => {
        const client = await context.client();
        const request = reclaimOrphansRequest.parse({
          host: flags.host,
          graceSeconds: flags.grace,
          quick: flags.quick,
          dryRun: flags.dryRun,
        });
        const workflowId = runId('reclaimOrphans', flags.host ?? 'all');
        const run = await client.workflow.start('reclaimOrphans', {
          taskQueue: CONTROL_QUEUE,
          workflowId,
          args: [request],
        });
        const { found, problems, dryRun } = await followRun<ReclaimedOrphans>(run, context.output);
        context.output.result({ found, problems, dryRun }, () =>
          [
            found.length === 0 ? 'nothing is left over' : `${dryRun ? 'would undo' : 'undone'}:`,
            ...found.map((line) => `  ${line}`),
            ...problems.map((line) => `  problem: ${line}`),
          ].join('\n'),
        );
      }),
    );
}
