import type { Command } from 'commander';
import { startRescanRepository } from '../../operations/start.ts';
import { rescanRepositoryRequest } from '../../schemas/requests.ts';
import { rescanSort, type RescanSort } from '../../schemas/rescan.ts';
import type { RescannedRepository } from '../../workflows/rescan-repository.ts';
import { action } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import { sizeText } from '../output.ts';
import { parseName } from './dev.ts';

/** @param repo the command `holdfast repo` */
export function addRescanCommand(repo: Command): void {
  repo
    .command('rescan')
    .description('rebuild what is known of a repository from its manifests; tell what is missing, surplus or damaged')
    .argument('<name>', 'name of the repository', parseName)
    .option('--dry-run', 'only tell what would be taken over')
    .option('--no-wait', 'print the job and return')
    .addHelpText(
      'after',
      `
After the loss of a catalog: holdfast repo add PLACE --name NAME, then this. What the catalog has already stays; VMs that an
operation is at work on are left out. Reads manifests and lengths only: the bytes are compared by holdfast repo check.
Where names are hidden (repo add --hide-names) the hosts need the identity, or VMs are listed by UUID and their next
backup is full: holdfast repo set NAME --identity-file PATH (or --identity-env), then this again.

Examples:
  $ holdfast repo rescan main --dry-run
  $ holdfast repo rescan main`,
    )
    .action(
      action(async (context, repository: string, flags: { dryRun?: boolean; wait: boolean }) => {
        const request = rescanRepositoryRequest.parse({ repository, dryRun: flags.dryRun });
        const run = await startRescanRepository(await context.client(), request);
        const rescanned = await followOrLeave<RescannedRepository>(run, flags, context.output);
        if (rescanned === undefined) return;
        context.output.result(rescanned, () => textOf(rescanned));
      }),
    );
}

const TITLES: Record<RescanSort, string> = {
  missing: 'missing',
  damaged: 'damaged',
  surplus: 'surplus',
  sealed: 'names hidden, and not opened',
  elsewhere: 'known in another repository',
  skipped: 'left out, because an operation is at work on the VM',
};

function textOf({
  repository,
  dryRun,
  vms,
  manifests,
  added,
  changed,
  surplusBytes,
  ...rest
}: RescannedRepository): string {
  const verb = dryRun ? 'would be ' : '';
  return [
    `repository ${repository}: ${manifests} backups of ${vms} VMs; ${added} ${verb}added, ${changed} ${verb}changed`,
    ...rescanSort.options.flatMap((sort) => {
      const count = rest.findings[sort];
      if (count === 0) return [];
      const told = rest.told.filter((one) => one.sort === sort);
      return [
        `${TITLES[sort]}: ${count}${sort === 'surplus' ? `, ${sizeText(surplusBytes)}` : ''}`,
        ...told.map(
          ({ backupId, message }) =>
            `  ${backupId === null || message.includes(backupId) ? '' : `backup ${backupId}: `}${message}`,
        ),
        ...(count > told.length ? [`  and ${count - told.length} more`] : []),
      ];
    }),
  ].join('\n');
}
