import { InvalidArgumentError, Option, type Command } from 'commander';
import { withRestoring } from '../../operations/backup-states.ts';
import { findBackup } from '../../operations/find-backup.ts';
import { startTakeBackup } from '../../operations/start.ts';
import type { Backup } from '../../schemas/backup.ts';
import { diskTarget } from '../../schemas/names.ts';
import { takeBackupRequest, type TakeBackupRequest } from '../../schemas/requests.ts';
import { action } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import { durationText, shortId, sizeText, table } from '../output.ts';
import { addCompressCommand } from './compress.ts';
import { addDeleteCommand } from './delete.ts';
import { parseCount, parseName, parseVm } from './dev.ts';
import { parseWhole } from './offering.ts';
import { addValidateCommand, validationText } from './validate.ts';
import { addPinCommands } from './pin.ts';

interface TakeFlags {
  full?: boolean;
  isolated?: boolean;
  quiesce?: TakeBackupRequest['quiesce'];
  offering?: string;
  repo?: string;
  since?: string;
  includeDisk?: string[];
  excludeDisk?: string[];
  strategy?: TakeBackupRequest['strategy'];
  compression?: TakeBackupRequest['compression'];
  chainSize?: number;
  timeLimit?: number;
  wait: boolean;
}

export function addBackupCommands(program: Command): void {
  const backup = program.command('backup').description('backups');
  backup
    .command('take')
    .description('back up a VM: incremental where that is provably right, else full')
    .argument('<vm>', 'name or UUID', parseVm)
    .option('--full', 'a full backup, which starts a new chain')
    .option('--isolated', 'a full backup outside any chain')
    .addOption(
      new Option('--quiesce <mode>', 'freeze the guest: never, if possible, or fail').choices([
        'none',
        'prefer',
        'require',
      ]),
    )
    .addOption(new Option('--offering <name>', 'as this offering says').argParser(parseName).conflicts('repo'))
    .option('--repo <name>', 'repository', parseName)
    .addOption(
      new Option('--since <id>', 'an increment on this backup of the open chain, not on the newest')
        .argParser(parseIdPrefix)
        .conflicts(['full', 'isolated']),
    )
    .option('--include-disk <targets...>', 'only these disks, like vda')
    .option('--exclude-disk <targets...>', 'disks left out, like vdb')
    .addOption(new Option('--strategy <how>', 'how the point in time is made').choices(['checkpoint', 'snapshot']))
    .addOption(new Option('--compression <how>', 'how disks are stored').choices(['zstd', 'none']))
    .option('--chain-size <n>', 'end the chain at this many backups; below 1 = unlimited', parseWhole)
    .option('--time-limit <seconds>', 'for all disks together', parseCount)
    .option('--no-wait', 'print the job and return')
    .addHelpText(
      'after',
      '\nExamples:\n  $ holdfast backup take web-1\n  $ holdfast backup take web-1 --full --quiesce require --repo main',
    )
    .action(
      action(async (context, vm: string, flags: TakeFlags) => {
        const since = flags.since === undefined ? undefined : await findBackup(await context.catalog(), flags.since);
        const request = takeBackupRequest.parse({
          vm,
          full: flags.full,
          isolated: flags.isolated,
          since: since?.backup.id,
          quiesce: flags.quiesce,
          offering: flags.offering,
          repository: flags.repo,
          includeDisks: flags.includeDisk,
          excludeDisks: flags.excludeDisk,
          strategy: flags.strategy,
          compression: flags.compression,
          chainSize: flags.chainSize,
          timeLimitSeconds: flags.timeLimit,
          requestedBy: `cli:${process.env['USER'] ?? process.getuid?.() ?? ''}`,
        });
        const run = await startTakeBackup(await context.client(), request);
        const taken = await followOrLeave<Backup>(run, flags, context.output);
        if (taken === undefined) return;
        context.output.result(taken, () => summary(taken));
      }),
    );
  backup
    .command('ls')
    .description('list backups, newest first')
    .argument('[vm]', 'name or UUID', parseVm)
    .option('--all', 'also the hidden ones')
    .action(
      action(async (context, vm: string | undefined, flags: { all?: boolean }) => {
        const catalog = await context.catalog();
        const listed = await catalog.backups.list({ ...(vm === undefined ? {} : { vm }), all: flags.all ?? false });
        const backups = await withRestoring(catalog, listed);
        context.output.result(backups, () =>
          table(
            ['BACKUP', 'VM', 'TYPE', 'STATE', 'INSTANT', 'CHANGED', 'STORED', 'TOOK', 'VALIDATION', 'REPOSITORY'],
            backups.map((row) => [
              shortId(row.id),
              row.vm.name,
              row.isolated ? `${row.type}, isolated` : row.type,
              row.state,
              row.instant,
              sizeText(row.disks.reduce((sum, disk) => sum + disk.changedBytes, 0)),
              sizeText(row.storedBytes),
              durationText(row.durationMs),
              row.validation,
              row.repository,
            ]),
            'no backups; take one: holdfast backup take VM',
          ),
        );
      }),
    );
  addDeleteCommand(backup);
  addCompressCommand(backup);
  addValidateCommand(backup);
  addPinCommands(backup);
  backup
    .command('show')
    .description('show one backup')
    .argument('<id>', 'id of the backup, or a beginning of it that is unique', parseIdPrefix)
    .action(
      action(async (context, id: string) => {
        const catalog = await context.catalog();
        const { backup, failure, damage, pinned, pinNote, rewriteFailure } = await findBackup(catalog, id);
        const [found = backup] = await withRestoring(catalog, [backup]);
        const validationResult = await catalog.validations.resultOf(found.id);
        const shown = {
          ...found,
          pinned,
          ...(pinNote === undefined ? {} : { pinNote }),
          ...(failure === null ? {} : { failure }),
          ...(damage === null ? {} : { damage }),
          ...(rewriteFailure === undefined ? {} : { rewriteFailure }),
          ...(validationResult === null ? {} : { validationResult }),
        };
        context.output.result(shown, () =>
          [
            summary(found),
            ...(pinned ? [`pinned${pinNote === undefined ? '' : `: ${pinNote}`}`] : []),
            ...(failure === null ? [] : [`${failure.type}: ${failure.message}`]),
            ...(damage === null ? [] : [`damaged: ${damage}`]),
            `compression: ${found.compression}${rewriteFailure === undefined ? '' : `; the last rewriting failed: ${rewriteFailure}`}`,
            validationText(found.validation, validationResult),
          ].join('\n'),
        );
      }),
    );
}

export function parseIdPrefix(value: string): string {
  if (/^[0-9a-fA-F-]{4,36}$/.test(value)) return value.toLowerCase();
  throw new InvalidArgumentError('give a backup id, or at least four characters of its beginning');
}

export function parseTarget(value: string): string {
  if (diskTarget.safeParse(value).success) return value;
  throw new InvalidArgumentError('give a disk target, like vda');
}

function summary(backup: Backup): string {
  const { vm, disks } = backup;
  return [
    `${backup.id}  ${backup.type}${backup.isolated ? ' (isolated)' : ''}  ${backup.state}`,
    `VM ${vm.name}, ${backup.instant ?? 'no instant'}, ${backup.consistency ?? 'unknown'} consistent, host ${backup.host}, repository ${backup.repository}`,
    ...(backup.chainId === null
      ? []
      : [
          `chain ${shortId(backup.chainId)}, position ${backup.position ?? '-'}${backup.endOfChain ? ', end of chain' : ''}`,
        ]),
    '',
    table(
      ['DISK', 'TYPE', 'WHY FULL', 'SIZE', 'CHANGED', 'READ', 'STORED', 'FILE'],
      disks.map((disk) => [
        disk.target,
        disk.type,
        disk.fullReason,
        sizeText(disk.virtualSizeBytes),
        sizeText(disk.changedBytes),
        sizeText(disk.readBytes),
        sizeText(disk.storedBytes),
        disk.file,
      ]),
      'no disks',
    ),
    `stored ${sizeText(backup.storedBytes)} in ${durationText(backup.durationMs)}`,
  ].join('\n');
}
