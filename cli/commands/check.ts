import { InvalidArgumentError, type Command } from 'commander';
import { startCheckRepository } from '../../operations/start.ts';
import type { CheckedRepository } from '../../schemas/check.ts';
import { checkRepositoryRequest } from '../../schemas/requests.ts';
import { parseBytesPerSecond } from '../bandwidth-rules.ts';
import { action } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import { sizeText, type Output } from '../output.ts';
import { requestedBy } from '../requested-by.ts';
import { parseName, parseVm } from './dev.ts';
import { parseWhole } from './offering.ts';

interface CheckFlags {
  vm?: string;
  sample?: number;
  rate?: number | null;
  sinceAge?: number;
  wait: boolean;
}

/** @param repo the command `holdfast repo` */
export function addCheckCommand(repo: Command): void {
  repo
    .command('check')
    .description(
      'read stored files and compare every byte with its hash; damaged backups, and those built on them, are marked',
    )
    .argument('<name>', 'name of the repository', parseName)
    .option('--vm <vm>', 'only backups of this VM, by name or UUID', parseVm)
    .option(
      '--sample <percent>',
      'only so many of all files, those that were compared longest ago: 10 or 10%',
      parsePercent,
    )
    .option('--since-age <days>', 'only files that were not compared for so many days', parseWhole)
    .option(
      '--rate <bytes>',
      'read at most so many bytes per second, like 50M (default: as fast as it goes)',
      parseBytesPerSecond,
    )
    .option('--no-wait', 'print the job and return')
    .addHelpText(
      'after',
      `
Needs no key: the hashes are of the bytes as they are stored. A file counts as compared when it was written. What was marked
and is right again, say after it was copied back, loses its mark. By the clock: holdfast schedule create --check NAME.

Examples:
  $ holdfast repo check main
  $ holdfast repo check main --sample 10% --rate 50M

Exit code 0 only if nothing is damaged.`,
    )
    .action(
      action(async (context, repository: string, flags: CheckFlags) => {
        const request = checkRepositoryRequest.parse({
          repository,
          vm: flags.vm,
          samplePercent: flags.sample,
          sinceAgeSeconds: flags.sinceAge === undefined ? undefined : flags.sinceAge * 86_400,
          rateBytesPerSecond: flags.rate ?? undefined,
          requestedBy: requestedBy(),
        });
        const run = await startCheckRepository(await context.client(), request);
        const checked = await followOrLeave<CheckedRepository>(run, flags, context.output);
        if (checked === undefined) return;
        tellChecked(checked, context.output);
      }),
    );
}

export function parsePercent(value: string): number {
  const percent = Number(value.replace(/%$/, ''));
  if (value !== '' && percent > 0 && percent <= 100) return percent;
  throw new InvalidArgumentError('give a share like 10 or 10%');
}

/** What a check came to, its own or one that a schedule ran. */
export function tellChecked(checked: CheckedRepository, output: Output): void {
  output.result(checked, () => textOf(checked));
  if (checked.damagedFiles > 0) process.exitCode = 1;
}

const textOf = ({
  repository,
  files,
  bytes,
  damagedFiles,
  damaged,
  healed,
  unverifiedSince,
}: CheckedRepository): string =>
  [
    `repository ${repository}: ${files} files, ${sizeText(bytes)} compared with their hashes, ${damagedFiles === 0 ? 'none' : damagedFiles} damaged`,
    ...damaged.map(({ vm, backupId, message }) => `  VM ${vm}, backup ${backupId}: ${message}`),
    ...(damagedFiles > damaged.length ? [`  and ${damagedFiles - damaged.length} more`] : []),
    ...(healed.length === 0 ? [] : [`right again: backup ${healed.join(', ')}`]),
    ...(unverifiedSince === null ? [] : [`the file that was not compared longest: since ${unverifiedSince}`]),
  ].join('\n');
