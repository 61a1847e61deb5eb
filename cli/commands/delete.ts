import { Option, type Command } from 'commander';
import { findBackup } from '../../operations/find-backup.ts';
import { startDeleteBackup } from '../../operations/start.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import type { DeletedBackup } from '../../workflows/delete-backup.ts';
import { deleteBackupRequest } from '../../schemas/requests.ts';
import { action } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { shortId, sizeText } from '../output.ts';
import { parseIdPrefix } from '../backup-id.ts';
import { parseName } from './dev.ts';

/** @param backup the command `holdfast backup` */
export function addDeleteCommand(backup: Command): void {
  backup
    .command('delete')
    .description('delete a backup; while others are built on it, it is hidden and its files stay')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique', parseIdPrefix)
    .option('--force', 'the whole chain it belongs to, leaf first')
    .option('--copies', 'also its copies in other repositories')
    .addOption(
      new Option('--repo <repository>', 'only its copy in this repository').argParser(parseName).conflicts('copies'),
    )
    .option('--dry-run', 'tell what would go and what would stay, and delete nothing')
    .addHelpText(
      'after',
      '\nExamples:\n  $ holdfast backup delete 3f2c9a41 --dry-run\n  $ holdfast backup delete 3f2c9a41',
    )
    .action(
      action(
        async (context, id: string, flags: { force?: boolean; copies?: boolean; repo?: string; dryRun?: boolean }) => {
          const { backup: found } = await findBackup(await context.catalog(), id);
          const request = deleteBackupRequest.parse({
            backupId: found.id,
            force: flags.force,
            copies: flags.copies,
            repository: flags.repo,
            dryRun: flags.dryRun,
          });
          const run = await startDeleteBackup(await context.client(), request, found.vm.name);
          const plan = await followRun<DeletedBackup>(run, context.output);
          context.output.result({ ...plan, dryRun: flags.dryRun ?? false }, () =>
            [plan, ...(plan.copies ?? [])].map((each) => textOf(each, flags.dryRun ?? false)).join('\n'),
          );
        },
      ),
    );
}

function textOf(plan: DeletePlan, dryRun: boolean): string {
  const would = dryRun ? 'would be ' : '';
  const what = plan.copiesIn === undefined ? 'backup' : `copy in ${plan.copiesIn} of backup`;
  if (plan.hide) {
    const needing = plan.neededBy.map(shortId).join(', ');
    return `${what} ${shortId(plan.backupId)} ${dryRun ? 'would be' : 'is'} hidden; its files stay for ${needing}`;
  }
  return [
    ...plan.expunge.map(({ id, storedBytes }) => `${what} ${shortId(id)} ${would}deleted, ${sizeText(storedBytes)}`),
    `${sizeText(plan.freedBytes)} ${would}freed${plan.endsChain ? '; the chain is over, the next backup is full' : ''}`,
  ].join('\n');
}
