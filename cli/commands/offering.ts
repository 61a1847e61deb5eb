import type { Command } from 'commander';
import type { Catalog } from '../../catalog/contract.ts';
import { probeVm } from '../../operations/probe-vm.ts';
import { unprotectVm } from '../../operations/unprotect-vm.ts';
import { whyNoIdentity, whyNotProtected } from '../../operations/why-not-protected.ts';
import { offering as offeringSchema, type Offering, type VmRecord } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { action, type CommandContext } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { shortId } from '../output.ts';
import { refreshInventory } from '../refresh-inventory.ts';
import { parseName, parseVm } from './dev.ts';
import { addOfferingFlags, applyFlags, saysSomething, type OfferingFlags } from './offering-flags.ts';
import { offeringTable, offeringText, type ShownOffering } from './offering-text.ts';
import { vmNamed } from './vm.ts';

export { parseWhole } from './offering-flags.ts';

export function addOfferingCommands(program: Command): void {
  const offering = program.command('offering').description('offerings: what a VM is protected by');
  addOfferingFlags(
    offering.command('create').description('create an offering').argument('<name>', 'its name', parseName),
  )
    .addHelpText(
      'after',
      `
A <time> is in seconds, or like 90m, 12h, 7d.

Examples:
  $ holdfast offering create gold --chain-size 14 --repo main --quiesce require --keep-daily 7 --keep-monthly 12
  $ holdfast offering create proven --validate hash,boot,command --validate-command '["/bin/sh","-c","systemctl is-active nginx, please"]'`,
    )
    .action(
      action(async (context, name: string, flags: OfferingFlags) => {
        const catalog = await context.catalog();
        if ((await catalog.offerings.find(name)) !== undefined) {
          throw new HoldfastError(
            'InvalidRequest',
            `name: an offering ${name} is there already; change it with: holdfast offering update ${name}`,
          );
        }
        const created = applyFlags(offeringSchema.parse({ name }), flags);
        await requireRepository(catalog, created);
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
    .addHelpText('after', '\nExample:\n  $ holdfast offering ls')
    .action(
      action(async (context) => {
        const catalog = await context.catalog();
        const offerings = await Promise.all((await catalog.offerings.list()).map((row) => withVms(catalog, row)));
        context.output.result(offerings, () => offeringTable(offerings));
      }),
    );
  offering
    .command('show')
    .description('show all that an offering says, and the VMs that have it')
    .argument('<name>', 'its name', parseName)
    .addHelpText('after', '\nExample:\n  $ holdfast offering show gold')
    .action(
      action(async (context, name: string) => {
        const catalog = await context.catalog();
        const shown = await withVms(catalog, await offeringNamed(catalog, name));
        context.output.result(shown, () => offeringText(shown));
      }),
    );
  addOfferingFlags(
    offering
      .command('update')
      .description('change what is given of an offering; it acts from the next backup on')
      .argument('<name>', 'its name', parseName),
  )
    .addHelpText(
      'after',
      `
What is not given stays as it was; --no-… takes back. A smaller chain size ends longer chains: their next backup is full.

Example:
  $ holdfast offering update gold --chain-size 7 --no-exclude-disk --keep-weekly 4`,
    )
    .action(
      action(async (context, name: string, flags: OfferingFlags) => {
        const catalog = await context.catalog();
        const before = await offeringNamed(catalog, name);
        if (!saysSomething(flags)) {
          throw new HoldfastError(
            'InvalidRequest',
            `nothing to change: give a flag; see: holdfast offering update --help`,
          );
        }
        const after = applyFlags(before, flags);
        await requireRepository(catalog, after);
        const repositories = await catalog.repositories.list();
        for (const vm of (await catalog.vms.list()).filter((one) => one.offering === name)) {
          const why = whyNotProtected(after, vm, repositories);
          if (why === undefined) {
            if (before.strategy !== after.strategy) await requireStrategyFits(context, after, vm);
            continue;
          }
          throw new HoldfastError(
            'OfferingNotKeepable',
            `VM ${vm.name} could not be protected by ${name} any more: ${why}; or take it from the VM first: holdfast offering remove ${vm.name}`,
          );
        }
        await catalog.offerings.upsert(after);
        const shown = await withVms(catalog, after);
        context.output.result(shown, () => `${offeringText(shown)}\nit acts from the next backup on`);
      }),
    );
  offering
    .command('assign')
    .description('protect a VM by an offering; it acts from the next backup on')
    .argument('<offering>', 'name of the offering', parseName)
    .argument('<vm>', 'name or UUID', parseVm)
    .addHelpText('after', '\nExample:\n  $ holdfast offering assign gold web-1')
    .action(
      action(async (context, name: string, vmName: string) => {
        const catalog = await context.catalog();
        const found = await offeringNamed(catalog, name);
        const vm = await vmNamed(catalog, vmName, () => refreshInventory(context));
        const why = whyNotProtected(found, vm, await catalog.repositories.list());
        if (why !== undefined) {
          throw new HoldfastError('OfferingNotKeepable', `VM ${vm.name} cannot be protected by ${name}: ${why}`);
        }
        const note = await requireStrategyFits(context, found, vm);
        await catalog.vms.setOffering(vm.uuid, name);
        context.output.result({ vm: { uuid: vm.uuid, name: vm.name }, offering: name, note }, () =>
          [`VM ${vm.name} is protected by ${name}`, ...(note === null ? [] : [note])].join('\n'),
        );
      }),
    );
  offering
    .command('remove')
    .alias('unassign')
    .description('take the offering from a VM and finish its chain; its backups stay')
    .argument('<vm>', 'name or UUID', parseVm)
    .addHelpText('after', '\nExample:\n  $ holdfast offering remove web-1')
    .action(action(removeFromVm));
  offering
    .command('delete')
    .description('delete an offering that no VM has')
    .argument('<name>', 'its name', parseName)
    .option('--force', 'take it from the VMs that have it first, and finish their chains')
    .addHelpText('after', '\nExample:\n  $ holdfast offering delete bronze')
    .action(
      action(async (context, name: string, flags: { force?: boolean }) => {
        const catalog = await context.catalog();
        const { vms } = await withVms(catalog, await offeringNamed(catalog, name));
        if (vms.length > 0 && flags.force !== true) {
          throw new HoldfastError(
            'OfferingInUse',
            `offering ${name} protects ${vms.join(', ')}; take it from each with: holdfast offering remove VM, or give --force`,
          );
        }
        const notes: string[] = [];
        for (const vm of (await catalog.vms.list()).filter((one) => one.offering === name)) {
          const left = await unprotectVm(
            catalog,
            () => context.client(),
            vm,
            (run) => followRun(run, context.output),
          );
          if (left.note !== null) notes.push(left.note);
        }
        await catalog.offerings.remove(name);
        context.output.result({ offering: name, deleted: true, takenFrom: vms, notes }, () =>
          [...notes, `offering ${name} is deleted`].join('\n'),
        );
      }),
    );
}

/** Strategy `snapshot` depends on the VM as its host shows it. Gives a note when nobody could be asked. */
async function requireStrategyFits(
  context: CommandContext,
  { name, strategy, includeDisks, excludeDisks }: Offering,
  vm: VmRecord,
): Promise<string | null> {
  if (strategy !== 'snapshot') return null;
  const request = { vm: vm.uuid, strategy, includeDisks, excludeDisks };
  const { probe, why } = await probeVm(() => context.client(), request, vm.name);
  if (probe === null)
    return `whether strategy ${strategy} fits VM ${vm.name} is unknown until its first backup: ${why}`;
  if (probe.doesNotFit.length === 0) return null;
  throw new HoldfastError(
    'OfferingNotKeepable',
    `VM ${vm.name} cannot be protected by ${name}: ${probe.doesNotFit.join('; ')}`,
  );
}

async function removeFromVm(context: CommandContext, vmName: string): Promise<void> {
  const catalog = await context.catalog();
  const vm = await vmNamed(catalog, vmName);
  if (vm.offering === null) {
    throw new HoldfastError(
      'NotProtected',
      `VM ${vm.name} is not protected by an offering; an open chain is ended by: holdfast chain finish ${vm.name}`,
    );
  }
  const { chains, note } = await unprotectVm(
    catalog,
    () => context.client(),
    vm,
    (run) => followRun(run, context.output),
  );
  context.output.result({ vm: { uuid: vm.uuid, name: vm.name }, offering: null, finishedChains: chains, note }, () =>
    [
      `VM ${vm.name} has no offering any more; its backups stay`,
      ...chains.map((id) => `chain ${shortId(id)} is finished`),
      ...(note === null ? [] : [note]),
    ].join('\n'),
  );
}

async function offeringNamed(catalog: Catalog, name: string): Promise<Offering> {
  const found = await catalog.offerings.find(name);
  if (found !== undefined) return found;
  throw new HoldfastError('OfferingNotFound', `offering: ${name} is not known; see: holdfast offering ls`);
}

const withVms = async (catalog: Catalog, row: Offering): Promise<ShownOffering> => ({
  ...row,
  vms: (await catalog.vms.list()).filter((vm) => vm.offering === row.name).map((vm) => vm.name),
});

/** @throws HoldfastError RepositoryNotFound, OfferingNotKeepable */
async function requireRepository(catalog: Catalog, offering: Offering): Promise<void> {
  const { name, repository } = offering;
  const repositories = await catalog.repositories.list();
  if (repository !== null && !repositories.some((one) => one.name === repository)) {
    throw new HoldfastError(
      'RepositoryNotFound',
      `--repo: repository ${repository} is not known; see: holdfast repo ls, or add it: holdfast repo add DIRECTORY --name ${repository}`,
    );
  }
  const why = whyNoIdentity(offering, repositories);
  if (why !== undefined) throw new HoldfastError('OfferingNotKeepable', `offering ${name}: ${why}`);
}
