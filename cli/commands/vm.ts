import type { Command } from 'commander';
import type { Catalog } from '../../catalog/contract.ts';
import type { VmRecord } from '../../schemas/catalog.ts';
import { consolidationJob } from '../../schemas/consolidation.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { ProvenBoot } from '../../schemas/validation.ts';
import { action } from '../context.ts';
import { durationText, shortId, sizeText, table } from '../output.ts';
import { refreshInventory } from '../refresh-inventory.ts';
import { parseVm } from './dev.ts';

export function addVmCommands(program: Command): void {
  const vm = program.command('vm').description('virtual machines');
  vm.command('ls')
    .description('list the VMs of all hosts')
    .option('--refresh', 'ask the hosts first', true)
    .option('--no-refresh', 'show what the catalog knows')
    .addHelpText('after', '\nExamples:\n  $ holdfast vm ls\n  $ holdfast vm ls --no-refresh --json')
    .action(
      action(async (context, options: { refresh: boolean }) => {
        const catalog = await context.catalog();
        if (options.refresh) await refreshInventory(context);
        const vms = await Promise.all((await catalog.vms.list()).map((record) => withLastBackup(catalog, record)));
        context.output.result(vms, () =>
          table(
            ['VM', 'UUID', 'HOST', 'POWER', 'STATE', 'DISKS', 'LAST BACKUP'],
            vms.map((row) => [
              row.name,
              row.uuid,
              row.host,
              row.power,
              row.state,
              row.disks.map(({ target }) => target).join(' '),
              row.lastBackup?.instant ?? null,
            ]),
            'no VMs; is a host worker running? see: holdfast host ls',
          ),
        );
      }),
    );
  vm.command('show')
    .description('show one VM, its state and its backups')
    .argument('<vm>', 'name or UUID', parseVm)
    .addHelpText('after', '\nExample:\n  $ holdfast vm show web-1')
    .action(
      action(async (context, name: string) => {
        const catalog = await context.catalog();
        const record = await vmNamed(catalog, name, () => refreshInventory(context));
        const backups = await catalog.backups.list({ vm: record.uuid });
        const [depends] = await catalog.consolidations.findByVm(record.uuid);
        const consolidation =
          depends === undefined
            ? null
            : { backupId: depends.backupId, state: depends.state, jobId: consolidationJob(depends) };
        const lastBoot = await catalog.validations.lastBoot(record.uuid);
        context.output.result({ ...record, lastBoot, backups, consolidation }, () =>
          [
            `${record.name}  ${record.uuid}`,
            `host ${record.host}, ${record.power}, ${record.state}${record.error === null ? '' : `: ${record.error}`}`,
            ...(consolidation === null
              ? []
              : [`disks depend on backup ${shortId(consolidation.backupId)} until job ${consolidation.jobId} is done`]),
            `offering ${record.offering ?? 'none'}`,
            bootText(lastBoot),
            ...record.disks.map(({ target, format, path }) => `disk ${target}: ${format} ${path ?? ''}`),
            '',
            table(
              ['BACKUP', 'TYPE', 'STATE', 'INSTANT', 'STORED'],
              backups.map((row) => [shortId(row.id), row.type, row.state, row.instant, sizeText(row.storedBytes)]),
              'no backups',
            ),
          ].join('\n'),
        );
      }),
    );
}

/** When the VM last proved to boot, for people. */
const bootText = (boot: ProvenBoot | null): string =>
  boot === null
    ? 'never proved to boot; try: holdfast backup validate BACKUP'
    : `last proved to boot ${boot.bootedAt}, from backup ${shortId(boot.backupId)}, in ${durationText(boot.bootMs)}`;

async function withLastBackup(catalog: Catalog, record: VmRecord) {
  const [last] = await catalog.backups.list({ vm: record.uuid, states: ['BackedUp'], limit: 1 });
  return { ...record, lastBackup: last === undefined ? null : { id: last.id, type: last.type, instant: last.instant } };
}

/** The VM of a name or UUID. @throws HoldfastError VmNotFound, VmAmbiguous */
export async function vmNamed(catalog: Catalog, name: string, lookAgain?: () => Promise<void>): Promise<VmRecord> {
  let found = await catalog.vms.findByNameOrUuid(name);
  if (found.length === 0 && lookAgain !== undefined) {
    await lookAgain();
    found = await catalog.vms.findByNameOrUuid(name);
  }
  const [record, ...others] = found;
  if (record === undefined) throw new HoldfastError('VmNotFound', `VM ${name} is not known; see: holdfast vm ls`);
  if (others.length > 0) {
    throw new HoldfastError(
      'VmAmbiguous',
      `several VMs are called ${name}: ${found.map(({ uuid }) => uuid).join(', ')}`,
    );
  }
  return record;
}
