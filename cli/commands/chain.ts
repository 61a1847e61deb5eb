import type { Command } from 'commander';
import type { Catalog } from '../../catalog/contract.ts';
import { startFinishChain } from '../../operations/start.ts';
import type { Backup } from '../../schemas/backup.ts';
import { finishChainRequest } from '../../schemas/requests.ts';
import type { FinishedChain } from '../../workflows/finish-chain.ts';
import { action } from '../context.ts';
import { followRun } from '../follow-run.ts';
import { shortId, sizeText } from '../output.ts';
import { parseVm } from './dev.ts';
import { vmNamed } from './vm.ts';

interface ShownBackup extends Backup {
  /** What the catalog knows of the checkpoint on the VM; null where there is none. */
  checkpoint: 'pending' | 'current' | 'retired' | null;
  children: string[];
  /** Targets of disks that lie on its overlay, by strategy `snapshot`. */
  overlays: string[];
}
interface ShownChain {
  id: string | null;
  open: boolean;
  repository: string;
  backups: ShownBackup[];
}

export function addChainCommands(program: Command): void {
  const chain = program.command('chain').description('chains of backups that are built on each other');
  chain
    .command('show')
    .description("show a VM's chains: which backup is built on which, and where the checkpoints are")
    .argument('<vm>', 'name or UUID', parseVm)
    .action(
      action(async (context, name: string) => {
        const catalog = await context.catalog();
        const vm = await vmNamed(catalog, name);
        const chains = await chainsOf(catalog, vm.uuid);
        context.output.result({ vm: { uuid: vm.uuid, name: vm.name }, state: vm.state, error: vm.error, chains }, () =>
          chains.length === 0 ? `VM ${vm.name} has no backups` : chains.map(textOf).join('\n\n'),
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
}

async function chainsOf(catalog: Catalog, vmUuid: string): Promise<ShownChain[]> {
  const all = (await catalog.backups.list({ vm: vmUuid, all: true }))
    .filter(({ state }) => state !== 'Expunged')
    .toReversed();
  const checkpoints = new Map((await catalog.checkpoints.list(vmUuid)).map(({ backupId, state }) => [backupId, state]));
  const deltas = await catalog.deltas.list(vmUuid);
  const chains = new Map<string, ShownChain>();
  for (const backup of all) {
    const key = backup.chainId ?? `alone ${backup.id}`;
    const shown = chains.get(key) ?? { id: backup.chainId, open: false, repository: backup.repository, backups: [] };
    shown.backups.push({
      ...backup,
      checkpoint: checkpoints.get(backup.id) ?? null,
      overlays: deltas.filter(({ backupId }) => backupId === backup.id).map(({ target }) => target),
      children: all.filter(({ parentId }) => parentId === backup.id).map(({ id }) => id),
    });
    chains.set(key, shown);
  }
  for (const shown of chains.values()) {
    const last = await catalog.backups.lastChain(vmUuid, shown.repository);
    shown.open = shown.id !== null && last?.id === shown.id && last.open;
  }
  return [...chains.values()];
}

function textOf({ id, open, repository, backups }: ShownChain): string {
  return [
    id === null ? `isolated, in ${repository}` : `chain ${shortId(id)} in ${repository}, ${open ? 'open' : 'ended'}`,
    ...backups.map((backup) => {
      const depth = '  '.repeat(backup.position ?? 1);
      const marks = [
        backup.endOfChain ? 'end of chain' : '',
        backup.checkpoint === null ? '' : `checkpoint ${backup.checkpoint}`,
        backup.overlays.length === 0 ? '' : `overlay on ${backup.overlays.join(', ')}`,
      ].filter((mark) => mark !== '');
      const tail = marks.length === 0 ? '' : `  (${marks.join(', ')})`;
      return `${depth}${shortId(backup.id)}  ${backup.type}  ${backup.instant ?? '-'}  ${sizeText(backup.storedBytes)}  ${backup.state}${tail}`;
    }),
  ].join('\n');
}
