import { Option, type Command } from 'commander';
import { withCopies, type BackupWithCopies } from '../../operations/backup-copies.ts';
import { withRestoring } from '../../operations/backup-states.ts';
import { damageText } from '../../operations/damage-text.ts';
import { findBackup } from '../../operations/find-backup.ts';
import { readEvidence } from '../../operations/read-evidence.ts';
import { startTakeBackup } from '../../operations/start.ts';
import type { Backup } from '../../schemas/backup.ts';
import { takeBackupRequest, type TakeBackupRequest } from '../../schemas/requests.ts';
import { parseIdPrefix, parseStoredId } from '../backup-id.ts';
import { action } from '../context.ts';
import { copiesText } from '../copies-text.ts';
import { evidenceText } from '../evidence-text.ts';
import { followOrLeave } from '../follow-run.ts';
import { actionOrFrom, latestOfOption, withFromOptions, type FromFlags } from '../from-repository.ts';
import { requestedBy } from '../requested-by.ts';
import { listFrom, showFrom } from './backup-from.ts';
import { backupTable, backupText } from './backup-text.ts';
import { addCompressCommand } from './compress.ts';
import { addDeleteCommand } from './delete.ts';
import { addFilesCommand } from './files.ts';
import { parseCount, parseName, parseVm } from './dev.ts';
import { addMountCommand } from './mount.ts';
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
          requestedBy: requestedBy(),
        });
        const run = await startTakeBackup(await context.client(), request);
        const taken = await followOrLeave<Backup>(run, flags, context.output);
        if (taken === undefined) return;
        context.output.result(taken, () => backupText(taken));
      }),
    );
  const list = backup
    .command('ls')
    .description('list backups, newest first')
    .argument('[vm]', 'name or UUID', parseVm)
    .option('--all', 'also the hidden ones');
  withFromOptions(list, ['all'])
    .addHelpText(
      'after',
      "\nExamples:\n  $ holdfast backup ls web-1\n  $ holdfast backup ls --from /mnt/backups     # on a machine without Holdfast's catalog",
    )
    .action(
      actionOrFrom<[string | undefined, FromFlags & { all?: boolean }]>(async (context, vm, flags) => {
        const catalog = await context.catalog();
        const filter = { ...(vm === undefined ? {} : { vm }), all: flags.all ?? false, copied: true };
        const records = await catalog.backups.records(filter);
        const damages = new Map(records.map(({ backup: { id }, damage }) => [id, damage]));
        const listed = await withRestoring(
          catalog,
          records.map((record) => record.backup),
        );
        const backups = (await withCopies(catalog, listed)).map((row): BackupWithCopies & { damage?: string } => {
          const damage = damages.get(row.id) ?? null;
          return damage === null ? row : { ...row, damage };
        });
        context.output.result(backups, () => backupTable(backups, 'no backups; take one: holdfast backup take VM'));
      }, listFrom),
    );
  addDeleteCommand(backup);
  addCompressCommand(backup);
  addValidateCommand(backup);
  addPinCommands(backup);
  addFilesCommand(backup);
  addMountCommand(backup);
  const show = backup
    .command('show')
    .description('show one backup: its disks, why each was copied in full, and how it came about')
    .argument(
      '<id>',
      'id of the backup, or a beginning of it that is unique; with --from also `latest`',
      parseStoredId,
    );
  withFromOptions(show)
    .addOption(latestOfOption())
    .addHelpText(
      'after',
      '\nExamples:\n  $ holdfast backup show 3f2c9a41\n  $ holdfast backup show latest --vm web-1 --from /mnt/backups',
    )
    .action(
      actionOrFrom<[string, FromFlags & { vm?: string }]>(async (context, id) => {
        const catalog = await context.catalog();
        const { backup, failure, damage, pinned, pinNote, rewriteFailure } = await findBackup(catalog, id);
        const [whole] = await withCopies(catalog, await withRestoring(catalog, [backup]));
        const found: BackupWithCopies = whole ?? backup;
        const validationResult = await catalog.validations.resultOf(found.id);
        const recorded = await readEvidence(catalog, found);
        const shown = {
          ...found,
          ...recorded,
          pinned,
          ...(pinNote === undefined ? {} : { pinNote }),
          ...(failure === null ? {} : { failure }),
          ...(damage === null ? {} : { damage }),
          ...(rewriteFailure === undefined ? {} : { rewriteFailure }),
          ...(validationResult === null ? {} : { validationResult }),
        };
        context.output.result(shown, () =>
          [
            backupText(found),
            'evidence' in recorded
              ? evidenceText(recorded.evidence)
              : `how it came about is not to be read: ${recorded.evidenceMissing}`,
            ...(pinned ? [`pinned${pinNote === undefined ? '' : `: ${pinNote}`}`] : []),
            ...(failure === null ? [] : [`${failure.type}: ${failure.message}`]),
            ...(damage === null ? [] : [`damaged: ${damageText(damage)}`]),
            `compression: ${found.compression}${rewriteFailure === undefined ? '' : `; the last rewriting failed: ${rewriteFailure}`}`,
            validationText(found.validation, validationResult),
            ...copiesText(found.copies),
          ].join('\n'),
        );
      }, showFrom),
    );
}
