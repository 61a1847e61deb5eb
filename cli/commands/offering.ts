import { InvalidArgumentError, Option, type Command } from 'commander';
import { offering as offeringSchema } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { action } from '../context.ts';
import { table } from '../output.ts';
import { parseCount, parseName, parseVm } from './dev.ts';
import { vmNamed } from './vm.ts';

interface OfferingFlags {
  chainSize?: number;
  repo?: string;
  quiesce?: string;
  excludeDisk?: string[];
  compression?: string;
  timeLimit?: number;
  tenant?: string;
  priority?: number;
}

export function addOfferingCommands(program: Command): void {
  const offering = program.command('offering').description('offerings: what a VM is protected by');
  offering
    .command('create')
    .description('create an offering')
    .argument('<name>', 'its name', parseName)
    .option(
      '--chain-size <n>',
      'backups of a chain, its full included; 1 = always full, below 1 = unlimited (default 8)',
      parseWhole,
    )
    .option('--repo <name>', 'repository', parseName)
    .addOption(
      new Option('--quiesce <mode>', 'freeze the guest (default prefer)').choices(['none', 'prefer', 'require']),
    )
    .option('--exclude-disk <targets...>', 'disks left out, like vdb')
    .addOption(
      new Option('--compression <how>', 'while copying, as a job after it, or not at all (default inline)').choices([
        'inline',
        'deferred',
        'none',
        'zstd',
      ]),
    )
    .option('--time-limit <seconds>', 'for all disks of a run together (default 43200)', parseCount)
    .option('--tenant <name>', 'whose share of slots its VMs use (default "default")', parseName)
    .option('--priority <n>', '1 first, 5 last (default 3)', parseCount)
    .addHelpText('after', '\nExample:\n  $ holdfast offering create gold --chain-size 14 --repo main --quiesce require')
    .action(
      action(async (context, name: string, flags: OfferingFlags) => {
        const catalog = await context.catalog();
        if ((await catalog.offerings.find(name)) !== undefined) {
          throw new HoldfastError('InvalidRequest', `name: an offering ${name} is there already`);
        }
        if (flags.repo !== undefined && (await catalog.repositories.find(flags.repo)) === undefined) {
          throw new HoldfastError(
            'RepositoryNotFound',
            `repository: ${flags.repo} is not known; see: holdfast repo ls`,
          );
        }
        const created = offeringSchema.parse({
          name,
          chainSize: flags.chainSize,
          repository: flags.repo,
          quiesce: flags.quiesce,
          excludeDisks: flags.excludeDisk,
          compression: flags.compression,
          timeLimitSeconds: flags.timeLimit,
          tenant: flags.tenant,
          priority: flags.priority,
        });
        await catalog.offerings.upsert(created);
        context.output.result(
          created,
          () => `offering ${name} created; give it to a VM: holdfast offering assign ${name} VM`,
        );
      }),
    );
  offering
    .command('ls')
    .description('list the offerings')
    .action(
      action(async (context) => {
        const catalog = await context.catalog();
        const vms = await catalog.vms.list();
        const offerings = (await catalog.offerings.list()).map((row) => ({
          ...row,
          vms: vms.filter((vm) => vm.offering === row.name).map((vm) => vm.name),
        }));
        context.output.result(offerings, () =>
          table(
            ['OFFERING', 'CHAIN SIZE', 'REPOSITORY', 'QUIESCE', 'COMPRESSION', 'VMS'],
            offerings.map((row) => [
              row.name,
              row.chainSize,
              row.repository,
              row.quiesce,
              row.compression,
              row.vms.join(' '),
            ]),
            'no offering yet; create one: holdfast offering create NAME',
          ),
        );
      }),
    );
  offering
    .command('assign')
    .description('protect a VM by an offering; it acts from the next backup on')
    .argument('<offering>', 'name of the offering', parseName)
    .argument('<vm>', 'name or UUID', parseVm)
    .action(
      action(async (context, name: string, vmName: string) => {
        const catalog = await context.catalog();
        if ((await catalog.offerings.find(name)) === undefined) {
          throw new HoldfastError('OfferingNotFound', `offering: ${name} is not known; see: holdfast offering ls`);
        }
        const vm = await vmNamed(catalog, vmName);
        await catalog.vms.setOffering(vm.uuid, name);
        context.output.result(
          { vm: { uuid: vm.uuid, name: vm.name }, offering: name },
          () => `VM ${vm.name} is protected by ${name}`,
        );
      }),
    );
  offering
    .command('remove')
    .description('take the offering from a VM; its backups stay')
    .argument('<vm>', 'name or UUID', parseVm)
    .action(
      action(async (context, vmName: string) => {
        const catalog = await context.catalog();
        const vm = await vmNamed(catalog, vmName);
        await catalog.vms.setOffering(vm.uuid, null);
        context.output.result(
          { vm: { uuid: vm.uuid, name: vm.name }, offering: null },
          () => `VM ${vm.name} has no offering any more`,
        );
      }),
    );
}

export function parseWhole(value: string): number {
  const whole = Number(value);
  if (!Number.isSafeInteger(whole)) throw new InvalidArgumentError('give a whole number');
  return whole;
}
