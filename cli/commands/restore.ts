import { InvalidArgumentError, Option, type Command } from 'commander';
import { findBackup } from '../../operations/find-backup.ts';
import { startRestoreDisk, startRestoreVm } from '../../operations/start.ts';
import type { RestoredVm } from '../../schemas/backup.ts';
import { filePath } from '../../schemas/names.ts';
import { restoreDiskRequest, restoreVmRequest } from '../../schemas/requests.ts';
import type { PreparedDisk, RestorePreview } from '../../schemas/restore-plan.ts';
import { parseStoredId, parseTarget } from '../backup-id.ts';
import type { CommandContext } from '../context.ts';
import { followOrLeave, followRun } from '../follow-run.ts';
import { actionOrFrom, latestOfOption, withFromOptions, type Alone, type FromFlags } from '../from-repository.ts';
import { table } from '../output.ts';
import { requestedBy } from '../requested-by.ts';
import type { ConsolidatedVm } from '../../schemas/consolidation.ts';
import { consolidatedText, parseRate } from './consolidation.ts';
import { parseCount, parseName, parseVm } from './dev.ts';
import type { RestoreFromFlags } from './restore-from.ts';
import { diskPreviewText, previewText } from './restore-preview.ts';
import { WrongUsage } from '../wrong-usage.ts';

/** With `--from` these have no meaning: what they ask for needs an installation. */
const OF_AN_INSTALLATION = [
  'host',
  'formerHostLost',
  'toVm',
  'asTarget',
  'path',
  'quick',
  'rate',
  'waitConsolidation',
  'timeLimit',
  'wait',
];

interface RestoreFlags extends FromFlags, RestoreFromFlags {
  host?: string;
  repo?: string;
  formerHostLost?: boolean;
  toVm?: string;
  asTarget?: string;
  path?: string;
  quick?: boolean;
  rate?: number;
  waitConsolidation?: boolean;
  timeLimit?: number;
  wait: boolean;
}

export function addRestoreCommand(program: Command): void {
  const restore = program
    .command('restore')
    .description(
      'bring a VM or one of its disks back from a backup: written beside, every byte checked, then swapped in',
    )
    .argument('<id>', 'id of the backup, or a beginning of it that is unique; with --from also `latest`', parseStoredId)
    .option('--as <name>', 'restore as a new VM: new UUID, new MACs, disks beside those of the original', parseVm)
    .option('--keep-uuid', 'with --as: the UUID of the original, which must be gone from all hosts')
    .option('--keep-macs', 'with --as: the MAC addresses of the original')
    .option('--network-down', "with --as: the new VM's network cables are unplugged")
    .option('--host <name>', 'restore to this host', parseName)
    .option(
      '--repo <repository>',
      'from the copy in this repository (default: its own, else a healthy copy)',
      parseName,
    )
    .option('--former-host-lost', 'the host the VM was on is lost for good: do not wait for its word')
    .option('--disk <target>', 'only this disk; may be given several times', collectTarget)
    .addOption(
      new Option('--to-vm <vm>', 'attach the disk to this VM as a further one; it may run')
        .argParser(parseVm)
        .conflicts(['as', 'host', 'formerHostLost', 'keepUuid', 'keepMacs', 'networkDown', 'start', 'quick']),
    )
    .option(
      '--as-target <target>',
      'with --to-vm: what the disk is called there, by default the first free',
      parseTarget,
    )
    .option('--path <file>', "with --to-vm: the file it becomes, by default a new one beside the VM's disks", parsePath)
    .option('--start', 'start the VM when it is restored')
    .option('--dry-run', 'tell what would be written where and what stays, and change nothing')
    .option('--quick', 'boot the VM on the backup within seconds, and pull its disks out of it while it runs')
    .option(
      '--rate <MBps>',
      'with --quick: megabytes per second that are pulled (default: as fast as it goes)',
      parseRate,
    )
    .option('--wait-consolidation', 'with --quick: wait until the disks depend on nothing')
    .option('--time-limit <seconds>', 'for all disks together', parseCount)
    .option('--no-wait', 'print the job and return');
  withFromOptions(restore, OF_AN_INSTALLATION)
    .addOption(latestOfOption())
    .option(
      '--to <folder>',
      "with --from: where the disks and the definition go (default: a new folder of the VM's name)",
    )
    .addOption(
      new Option('--format <format>', 'with --from: of the disks (default: as they were)').choices(['qcow2', 'raw']),
    )
    .option('--define', "with --from: define the VM on this machine's libvirt")
    .option('--libvirt <socket>', 'with --define: its socket')
    .addHelpText(
      'after',
      `
Without --as the VM itself is restored; it must be stopped, or gone. Disks it has that are not in the backup stay as they
are; disks of the backup that it has no more are made anew and added to it. Nothing is swapped in before every byte is
checked, and what was there stays usable until then.
With --quick the VM boots on the backup, and its disks, all qcow2 then, are pulled out of it by job consolidateDisks; the
backup cannot be deleted until that is done.
With --from nothing but the repository is needed: no catalog, no Temporal, no worker. The disks are written into a new folder,
every byte checked, beside a definition that names them there.

Examples:
  $ holdfast restore 3f2c9a41 --dry-run                          # what would happen
  $ holdfast restore 3f2c9a41                                    # in place
  $ holdfast restore 3f2c9a41 --disk vdb                         # only one of its disks
  $ holdfast restore 3f2c9a41 --as web-1-test --network-down --start
  $ holdfast restore 3f2c9a41 --quick --rate 100                 # boots within seconds, then pulls
  $ holdfast restore 3f2c9a41 --host kvm-2                       # the VM is gone from its former host
  $ holdfast restore 3f2c9a41 --disk vda --to-vm web-2           # as a further disk of a VM that may run
  $ holdfast restore latest --vm web-1 --from /mnt/backups --to /var/lib/libvirt/images/web-1 --define`,
    )
    .action(
      actionOrFrom<[string, RestoreFlags]>(async (context, id, flags) => {
        requireInstallationFlags(flags);
        const { backup } = await findBackup(await context.catalog(), id);
        if (flags.toVm !== undefined) await restoreToVm(context, backup.id, flags.toVm, flags);
        else await restoreWhole(context, backup, flags);
      }, alone),
    );
}

/** Its code is loaded only when it is asked for. */
async function alone(from: Alone, id: string, flags: RestoreFlags): Promise<void> {
  const { restoreFrom } = await import('./restore-from.ts');
  await restoreFrom(from, id, flags);
}

function requireInstallationFlags({ to, format, define, libvirt }: RestoreFlags): void {
  for (const [flag, value] of Object.entries({
    '--to': to,
    '--format': format,
    '--define': define,
    '--libvirt': libvirt,
  })) {
    if (value !== undefined) throw new WrongUsage(`${flag} goes with --from`);
  }
}

async function restoreWhole(
  context: CommandContext,
  backup: { id: string; vm: { name: string } },
  flags: RestoreFlags,
): Promise<void> {
  for (const [flag, value] of [
    ['--as-target', flags.asTarget],
    ['--path', flags.path],
  ] as const) {
    if (value !== undefined) throw new WrongUsage(`${flag} goes with --disk and --to-vm`);
  }
  const request = restoreVmRequest.parse({
    backupId: backup.id,
    as: flags.as,
    keepUuid: flags.keepUuid,
    keepMacs: flags.keepMacs,
    linksDown: flags.networkDown,
    disks: flags.disk,
    host: flags.host,
    repository: flags.repo,
    formerHostLost: flags.formerHostLost,
    start: flags.start,
    quick: flags.quick,
    rateMBps: flags.rate,
    dryRun: flags.dryRun,
    timeLimitSeconds: flags.timeLimit,
    requestedBy: requestedBy(),
  });
  const run = await startRestoreVm(await context.client(), request, backup.vm.name);
  if (flags.dryRun === true) {
    const preview = await followRun<RestorePreview>(run, context.output);
    context.output.result(preview, () => previewText(preview));
    return;
  }
  const restored = await followOrLeave<RestoredVm>(run, flags, context.output);
  if (restored === undefined) return;
  if (restored.consolidation !== undefined && flags.waitConsolidation === true) {
    const handle = (await context.client()).workflow.getHandle(restored.consolidation);
    const done = await followRun<ConsolidatedVm>(handle, context.output);
    context.output.result({ ...restored, disks: done.disks }, () => consolidatedText(done));
    return;
  }
  context.output.result(restored, () =>
    [
      restored.consolidation === undefined
        ? `VM ${restored.vm.name} (${restored.vm.uuid}) is restored`
        : `VM ${restored.vm.name} (${restored.vm.uuid}) runs on the backup; its disks are pulled by job ${restored.consolidation}`,
      disksText(restored),
      ...(restored.warnings ?? []).map((warning) => `note: ${warning}`),
    ].join('\n'),
  );
}

async function restoreToVm(
  context: CommandContext,
  backupId: string,
  toVm: string,
  flags: RestoreFlags,
): Promise<void> {
  const [disk, ...others] = flags.disk ?? [];
  if (disk === undefined || others.length > 0) {
    throw new WrongUsage('--to-vm: name the one disk of the backup with --disk');
  }
  const request = restoreDiskRequest.parse({
    backupId,
    disk,
    toVm,
    repository: flags.repo,
    target: flags.asTarget,
    path: flags.path,
    dryRun: flags.dryRun,
    timeLimitSeconds: flags.timeLimit,
    requestedBy: requestedBy(),
  });
  const run = await startRestoreDisk(await context.client(), request);
  if (flags.dryRun === true) {
    const preview = await followRun<PreparedDisk>(run, context.output);
    context.output.result({ ...preview, dryRun: true }, () => diskPreviewText(preview, toVm));
    return;
  }
  const restored = await followOrLeave<RestoredVm>(run, flags, context.output);
  if (restored === undefined) return;
  context.output.result(restored, () => `disk ${disk} is attached to VM ${restored.vm.name}\n${disksText(restored)}`);
}

const disksText = ({ disks }: RestoredVm): string =>
  table(
    ['DISK', 'PATH', 'VERIFIED'],
    disks.map(({ target, path, verified }) => [target, path, verified ? 'yes' : 'no']),
    'no disks',
  );

const collectTarget = (value: string, before: string[] = []): string[] => [...before, parseTarget(value)];

function parsePath(value: string): string {
  const parsed = filePath.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new InvalidArgumentError(parsed.error.issues.map(({ message }) => message).join('; '));
}
