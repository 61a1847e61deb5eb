import type { Command } from 'commander';
import { startMergeBackups } from '../../operations/start.ts';
import type { MergedChain } from '../../schemas/merge-plan.ts';
import { mergeBackupsRequest } from '../../schemas/requests.ts';
import { action } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import { shortId, sizeText } from '../output.ts';
import { parseCount, parseName, parseVm } from './dev.ts';

interface MergeFlags {
  keep?: number;
  repo?: string;
  dryRun?: boolean;
  wait: boolean;
}

/** @param chain the command `holdfast chain` */
export function addMergeCommand(chain: Command): void {
  chain
    .command('merge')
    .description("merge a chain's oldest increment with the full beneath it, which then goes")
    .argument('<vm>', 'name or UUID', parseVm)
    .option('--keep <n>', 'merge until the chain has at most n backups (default: one less than now)', parseCount)
    .option('--repo <name>', 'repository, where the VM has chains in several', parseName)
    .option('--dry-run', 'only tell what would be merged')
    .option('--no-wait', 'print the job and return')
    .addHelpText(
      'after',
      `
The increment becomes the chain's full: same id, same instant, same content. The restore point of the former full is gone
afterwards. All younger backups stay right, at any instant. Needs room for the new full beside the others.

Examples:
  $ holdfast chain merge web-1 --dry-run
  $ holdfast chain merge web-1 --keep 7`,
    )
    .action(
      action(async (context, vm: string, flags: MergeFlags) => {
        const { keep, repo: repository, dryRun } = flags;
        const request = mergeBackupsRequest.parse({ vm, keep, repository, dryRun });
        const run = await startMergeBackups(await context.client(), request);
        const merged = await followOrLeave<MergedChain>(run, flags, context.output);
        if (merged === undefined) return;
        context.output.result(merged, () => textOf(merged));
      }),
    );
}

const textOf = ({ merges, blocked, dryRun }: MergedChain): string =>
  [
    ...merges.map(({ full, into }) => {
      const what = `${shortId(into.id)} (${into.instant ?? '-'})`;
      const gone = `${shortId(full.id)} (${full.instant ?? '-'}, ${sizeText(full.storedBytes)})`;
      return dryRun
        ? `increment ${what} would become the full; ${gone} would go`
        : `increment ${what} is the full now; ${gone} is gone`;
    }),
    ...(blocked === null ? [] : [`no more: ${blocked}`]),
  ].join('\n');
