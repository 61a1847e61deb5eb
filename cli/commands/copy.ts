import { Option, type Command } from 'commander';
import { findBackup } from '../../operations/find-backup.ts';
import { startCopyBackup, startCopyRepository } from '../../operations/start.ts';
import type { CopiedVm } from '../../schemas/copy.ts';
import { copyBackupRequest, copyRepositoryRequest } from '../../schemas/requests.ts';
import type { CopiedRepository } from '../../workflows/copy-repository.ts';
import { parseIdPrefix } from '../backup-id.ts';
import { action, type CommandContext } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import { shortId, sizeText } from '../output.ts';
import { requestedBy } from '../requested-by.ts';
import { parseCount, parseName, parseVm } from './dev.ts';
import { WrongUsage } from '../wrong-usage.ts';

interface CopyFlags {
  all?: boolean;
  to: string;
  from?: string;
  vm?: string;
  dryRun?: boolean;
  decrypt?: boolean;
  timeLimit?: number;
  wait: boolean;
}

/** @param repo the command `holdfast repo` */
export function addCopyCommand(repo: Command): void {
  repo
    .command('copy')
    .description('copy backups to a second repository, with all that they are built on')
    .argument('[id]', 'id of a backup, or a beginning of it that is unique', parseIdPrefix)
    .option('--all', 'every backup that has no copy there')
    .addOption(
      new Option('--to <repository>', 'the repository that gets the copies').argParser(parseName).makeOptionMandatory(),
    )
    .option('--from <repository>', 'with --all: only backups of this repository', parseName)
    .option('--vm <vm>', 'with --all: only backups of this VM', parseVm)
    .option('--dry-run', 'tell what would be copied, and copy nothing')
    .option(
      '--decrypt',
      'copies of encrypted backups may be plain: where the repository that gets them is not encrypted',
    )
    .option('--time-limit <seconds>', 'for each backup, from its real start (default: 43200)', parseCount)
    .option('--no-wait', 'print the job and return')
    .addHelpText(
      'after',
      `
Copies keep ids, names and chains. What has a copy there is not copied again; what retention let go there does not come back
with --all. Every byte is compared with its hash on the way. Into an encrypted repository files are encrypted on the way; out of
one they are opened in memory, with the identity of its hosts, and encrypted for the other. They become plain only with --decrypt.

Examples:
  $ holdfast repo copy 3f2c9a41 --to off-site
  $ holdfast repo copy --all --to off-site --dry-run
  $ holdfast repo copy --all --to off-site --vm web-1`,
    )
    .action(
      action(async (context, id: string | undefined, flags: CopyFlags) => {
        requireSense(id, flags);
        if (id === undefined) await copyAll(context, flags);
        else await copyOne(context, id, flags);
      }),
    );
}

function requireSense(id: string | undefined, { all, from, vm }: CopyFlags): void {
  if (id === undefined && all !== true) {
    throw new WrongUsage('name a backup, or give --all');
  }
  if (id === undefined) return;
  for (const [flag, value] of Object.entries({ '--all': all, '--from': from, '--vm': vm })) {
    if (value !== undefined) throw new WrongUsage(`${flag} does not go with a single backup`);
  }
}

async function copyOne(context: CommandContext, id: string, flags: CopyFlags): Promise<void> {
  const { backup } = await findBackup(await context.catalog(), id);
  const request = copyBackupRequest.parse({
    backupId: backup.id,
    to: flags.to,
    dryRun: flags.dryRun,
    decrypt: flags.decrypt,
    timeLimitSeconds: flags.timeLimit,
    requestedBy: requestedBy(),
  });
  const run = await startCopyBackup(await context.client(), request, backup.vm.name);
  const copied = await followOrLeave<CopiedVm>(run, flags, context.output);
  if (copied !== undefined) context.output.result(copied, () => vmText(copied));
}

async function copyAll(context: CommandContext, flags: CopyFlags): Promise<void> {
  const request = copyRepositoryRequest.parse({
    to: flags.to,
    from: flags.from,
    vm: flags.vm,
    dryRun: flags.dryRun,
    decrypt: flags.decrypt,
    timeLimitSeconds: flags.timeLimit,
    requestedBy: requestedBy(),
  });
  const run = await startCopyRepository(await context.client(), request);
  const copied = await followOrLeave<CopiedRepository | CopiedVm>(run, flags, context.output);
  if (copied === undefined) return;
  context.output.result(copied, () => ('vms' in copied ? fleetText(copied) : vmText(copied)));
  if (copied.problems.length > 0) process.exitCode = 1;
}

function vmText({ vm, repository, dryRun, copied, left, present, problems, writtenBytes }: CopiedVm): string {
  const would = dryRun ? 'would be ' : '';
  if (copied.length === 0 && problems.length === 0)
    return `VM ${vm.name}: nothing to copy; ${repository} has it already`;
  return [
    ...copied.map(({ id, instant, isAncestor }) => {
      const why = isAncestor ? ', because others are built on it' : '';
      return `backup ${shortId(id)} of ${instant ?? 'no instant'} ${would}copied to ${repository}${why}`;
    }),
    ...(left > 0 ? [`and ${left} more`] : []),
    ...problems.map(({ id, message }) => `problem with backup ${shortId(id)}: ${message}`),
    `VM ${vm.name}: ${copied.length + left} ${would}copied, ${present} there before, ${sizeText(writtenBytes)} ${would}written`,
  ].join('\n');
}

function fleetText({
  repository,
  dryRun,
  vms,
  copied,
  writtenBytes,
  problems,
  problemCount,
}: CopiedRepository): string {
  const would = dryRun ? 'would be ' : '';
  return [
    ...problems.map(({ vm, message }) => `problem with VM ${vm}: ${message}`),
    ...(problemCount > problems.length ? [`${problemCount - problems.length} more problems`] : []),
    `${vms} VMs: ${copied} backups ${would}copied to ${repository}, ${sizeText(writtenBytes)} ${would}written`,
  ].join('\n');
}
