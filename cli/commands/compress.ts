import type { Command } from 'commander';
import { findBackup } from '../../operations/find-backup.ts';
import { startCompressBackup } from '../../operations/start.ts';
import { compressBackupRequest } from '../../schemas/requests.ts';
import type { CompressedBackup } from '../../workflows/compress-backup.ts';
import { action } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import { shortId, sizeText } from '../output.ts';
import { requestedBy } from '../requested-by.ts';
import { parseIdPrefix } from '../backup-id.ts';
import { parseCount } from './dev.ts';

interface CompressFlags {
  timeLimit?: number;
  wait: boolean;
}

/** @param backup the command `holdfast backup` */
export function addCompressCommand(backup: Command): void {
  backup
    .command('compress')
    .description('compress a stored backup: its files are rewritten beside, compared, and swapped whole')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique', parseIdPrefix)
    .option(
      '--time-limit <seconds>',
      "longest time from the real start (default: the offering's, else 28800)",
      parseCount,
    )
    .option('--no-wait', 'print the job and return')
    .addHelpText(
      'after',
      `
Backups built on it stay right, and restores go on meanwhile. Needs room for the new files beside the old ones. A backup
that is compressed already, or does not get smaller, is left as it is; that is no failure.

Example:
  $ holdfast backup compress 3f2c9a41`,
    )
    .action(
      action(async (context, id: string, flags: CompressFlags) => {
        const { backup: found } = await findBackup(await context.catalog(), id);
        const request = compressBackupRequest.parse({
          backupId: found.id,
          timeLimitSeconds: flags.timeLimit,
          requestedBy: requestedBy(),
        });
        const run = await startCompressBackup(await context.client(), request, found.vm.name);
        const compressed = await followOrLeave<CompressedBackup>(run, flags, context.output);
        if (compressed === undefined) return;
        context.output.result(compressed, () => textOf(compressed));
      }),
    );
}

function textOf({ id, vm, compressionResult: { outcome, beforeBytes, afterBytes } }: CompressedBackup): string {
  const what = `backup ${shortId(id)} of VM ${vm.name}`;
  if (outcome === 'already-compressed') return `${what} is compressed already: nothing was done`;
  if (outcome === 'not-smaller') return `${what} does not get smaller (${sizeText(beforeBytes)}): its files stay`;
  return `${what} is compressed: ${sizeText(beforeBytes)} before, ${sizeText(afterBytes)} after`;
}
