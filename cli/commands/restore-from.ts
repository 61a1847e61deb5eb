import { availableParallelism, hostname } from 'node:os';
import { resolve } from 'node:path';
import { createCopierPool } from '../../copier/pool.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { filePath } from '../../schemas/names.ts';
import type { RestorePreview } from '../../schemas/restore-plan.ts';
import { commandsLeft } from '../../standalone/commands-left.ts';
import { openLocalLibvirt } from '../../standalone/local-libvirt.ts';
import { planStandaloneRestore, type StandalonePlan } from '../../standalone/plan-restore.ts';
import { restoreBackup } from '../../standalone/restore-backup.ts';
import { findStored } from '../../standalone/stored-backups.ts';
import { showProgress } from '../copy-progress.ts';
import type { Alone } from '../from-repository.ts';
import { sizeText, table } from '../output.ts';
import { stopSignal } from '../stop-signal.ts';
import { WrongUsage } from '../wrong-usage.ts';

/** Flags of `restore` that go with `--from`; the others need an installation. */
export interface RestoreFromFlags {
  vm?: string;
  to?: string;
  as?: string;
  keepUuid?: boolean;
  keepMacs?: boolean;
  networkDown?: boolean;
  disk?: string[];
  format?: 'qcow2' | 'raw';
  define?: boolean;
  libvirt?: string;
  start?: boolean;
  dryRun?: boolean;
}

/** Restores from the repository alone: everything into one folder, checked, with a definition that fits. */
export async function restoreFrom({ output, place }: Alone, id: string, flags: RestoreFromFlags): Promise<void> {
  requireTogether(flags);
  const { manifest, warnings } = await findStored(place, { id, vm: flags.vm });
  const refused: HoldfastError[] = [];
  const refuse = (reason: HoldfastError): void => {
    if (flags.dryRun !== true) throw reason;
    refused.push(reason);
  };
  const request = {
    folder: folderOf(flags.to ?? (flags.as ?? manifest.vm.name).replaceAll('/', '_').replace(/^\.{1,2}$/, '_')),
    as: flags.as,
    keepUuid: flags.keepUuid,
    keepMacs: flags.keepMacs,
    linksDown: flags.networkDown,
    disks: flags.disk,
    format: flags.format,
  };
  const plan = await planStandaloneRestore(place, manifest, request, refuse);
  plan.warnings.unshift(...warnings);
  await using local = flags.define === true ? openLocalLibvirt(flags.libvirt) : undefined;
  await local?.requireUndefined(plan, refuse);
  if (flags.dryRun === true) {
    const preview = previewOf(plan, refused);
    output.result(preview, () => previewText(preview, plan));
    return;
  }

  const signal = stopSignal();
  const shown = showProgress(output);
  shown.step({ vm: plan.vm.name, step: `restoring backup ${manifest.id} of ${manifest.instant}`, waitingFor: null });
  await using copier = createCopierPool({ threads: Math.min(8, Math.max(2, availableParallelism())) });
  const restored = await restoreBackup(place, plan, {
    copier,
    signal,
    onProgress: (copy) => shown.copies([copy]),
  }).finally(() => shown.stop());
  await local?.define(plan, { start: flags.start === true });
  const left = local === undefined ? commandsLeft(plan) : [];
  const defined = local !== undefined;
  output.result({ ...restored, defined, commandsLeft: left }, () =>
    [
      `backup ${manifest.id} of VM ${manifest.vm.name}, ${manifest.instant}, is restored; ${sizeText(restored.verifiedBytes)} read, every byte checked`,
      disksText(restored.disks.map(({ target, path }) => [target, path])),
      ...restored.files.map(({ kind, path }) => `${kind}: ${path}`),
      ...(restored.warnings ?? []).map((warning) => `note: ${warning}`),
      ...(defined
        ? [`VM ${plan.vm.name} (${plan.vm.uuid}) is defined${flags.start === true ? ' and started' : ''}`]
        : []),
      ...(left.length === 0 ? [] : ['to go on:', ...left.map((line) => `  ${line}`)]),
    ].join('\n'),
  );
}

function requireTogether({ disk, define, libvirt, start, as, keepUuid, keepMacs }: RestoreFromFlags): void {
  const problem =
    define === true && disk !== undefined
      ? '--define: a VM needs all of its disks; leave --disk away'
      : define !== true && (libvirt !== undefined || start === true)
        ? 'with --from, --libvirt and --start go with --define'
        : as === undefined && (keepUuid === true || keepMacs === true)
          ? '--keep-uuid and --keep-macs go with --as'
          : undefined;
  if (problem !== undefined) throw new WrongUsage(problem);
}

/** Everything below goes into a definition, which takes no path with control characters. */
function folderOf(to: string): string {
  const parsed = filePath.safeParse(resolve(to));
  if (parsed.success) return parsed.data;
  throw new WrongUsage(`--to: ${parsed.error.issues.map(({ message }) => message).join('; ')}`);
}

const previewOf = (plan: StandalonePlan, refused: readonly HoldfastError[]): RestorePreview => ({
  dryRun: true,
  vm: plan.vm,
  host: hostname(),
  isNew: true,
  disks: plan.disks.map(({ target, path, format, virtualSizeBytes, neededBytes }) => ({
    target,
    action: 'created',
    path,
    format,
    virtualSizeBytes,
    writtenBytes: neededBytes,
  })),
  untouched: [],
  warnings: plan.warnings,
  refused: refused.map(({ message }) => message),
});

const previewText = ({ disks, warnings, refused }: RestorePreview, { backup, vm, files }: StandalonePlan): string =>
  [
    `backup ${backup.id} of ${backup.instant} would be restored as VM ${vm.name} (${vm.uuid}); nothing was written`,
    table(
      ['DISK', 'PATH', 'FORMAT', 'SIZE', 'WRITES UP TO'],
      disks.map(({ target, path, format, virtualSizeBytes, writtenBytes }) => [
        target,
        path,
        format,
        sizeText(virtualSizeBytes),
        sizeText(writtenBytes),
      ]),
      'no disks',
    ),
    ...files.map(({ kind, path }) => `${kind}: ${path}`),
    ...warnings.map((warning) => `note: ${warning}`),
    ...refused.map((reason) => `would be refused now: ${reason}`),
  ].join('\n');

const disksText = (rows: [string, string][]): string =>
  table(
    ['DISK', 'PATH', 'VERIFIED'],
    rows.map((row) => [...row, 'yes']),
    'no disks',
  );
