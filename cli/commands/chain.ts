import type { Command } from 'commander';
import { chainTree } from '../../operations/chain-tree.ts';
import { probeVm } from '../../operations/probe-vm.ts';
import { startFinishChain } from '../../operations/start.ts';
import { finishChainRequest } from '../../schemas/requests.ts';
import type { FinishedChain } from '../../workflows/finish-chain.ts';
import { action } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { shortId } from '../output.ts';
import { chainTreeText } from './chain-text.ts';
import { parseVm } from './dev.ts';
import { addMergeCommand } from './merge.ts';
import { vmNamed } from './vm.ts';

export function addChainCommands(program: Command): void {
  const chain = program.command('chain').description('chains of backups that are built on each other');
  chain
    .command('show')
    .description("show a VM's chains: which backup is built on which, and where the checkpoints are")
    .argument('<vm>', 'name or UUID', parseVm)
    .option('--no-probe', 'do not ask its host where the checkpoints are')
    .addHelpText('after', '\nExample:\n  $ holdfast chain show web-1')
    .action(
      action(async (context, name: string, flags: { probe: boolean }) => {
        const catalog = await context.catalog();
        const vm = await vmNamed(catalog, name);
        const { probe, why } = flags.probe
          ? await probeVm(() => context.client(), { vm: vm.uuid }, vm.name)
          : { probe: null, why: 'its host was not asked' };
        const tree = await chainTree(catalog, vm.uuid, probe);
        context.output.result(
          {
            vm: { uuid: vm.uuid, name: vm.name },
            state: vm.state,
            error: vm.error,
            offering: vm.offering,
            ...tree,
            host: probe === null ? { name: vm.host, answered: false, why } : { name: probe.host, answered: true },
          },
          () =>
            [
              tree.chains.length === 0 ? `VM ${vm.name} has no backups` : chainTreeText(tree),
              ...(probe === null ? [`where the checkpoints are is unknown: ${why}`] : []),
            ].join('\n\n'),
        );
      }),
    );
  chain
    .command('finish')
    .description("end a VM's open chain: its next backup is full; also repairs a VM that is marked BackupError")
    .argument('<vm>', 'name or UUID', parseVm)
    .addHelpText(
      'after',
      `
Its backups stay. "No open chain" and "not protected by an offering" (a VM that has neither an offering nor an open
chain) are failures of their own, with exit code 1; asking a second time does no harm.

Example:
  $ holdfast chain finish web-1`,
    )
    .action(
      action(async (context, vm: string) => {
        const run = await startFinishChain(await context.client(), finishChainRequest.parse({ vm }));
        const finished = await followRun<FinishedChain>(run, context.output);
        context.output.result(finished, () =>
          [
            ...finished.repaired.map((id) => `what backup ${shortId(id)} had left on VM ${finished.vm.name} is undone`),
            ...finished.chains.map((id) => `chain ${shortId(id)} of VM ${finished.vm.name} is finished`),
            ...(finished.chains.length === 0 && finished.tidied.length > 0
              ? [`${finished.tidied.length} checkpoints that were left on VM ${finished.vm.name} are removed`]
              : []),
            ...(finished.left === null ? [] : [finished.left]),
          ].join('\n'),
        );
      }),
    );
  addMergeCommand(chain);
}
