import type { Client, WorkflowHandle } from '@temporalio/client';
import type { Catalog } from '../catalog/contract.ts';
import type { VmRecord } from '../schemas/catalog.ts';
import type { FinishedChain } from '../workflows/finish-chain.ts';
import { describeFailure } from './describe-failure.ts';
import { startFinishChain } from './start.ts';

export interface Unprotected {
  /** Chains that were open and are ended. */
  chains: string[];
  /** What could not be done at once, and when it will be; null when all is done. */
  note: string | null;
}

/**
 * Takes the offering from a VM and finishes its chain. The removal is recorded first and holds whatever follows: with
 * Temporal away the chain is ended in the catalog, and what is on the VM goes with the next opportunity.
 */
export async function unprotectVm(
  catalog: Catalog,
  client: () => Promise<Client>,
  vm: VmRecord,
  follow: (run: WorkflowHandle) => Promise<FinishedChain>,
): Promise<Unprotected> {
  await catalog.vms.setOffering(vm.uuid, null);
  try {
    const run = await startFinishChain(await client(), { vm: vm.uuid, unprotected: true });
    const finished = await follow(run);
    return { chains: finished.chains, note: finished.left };
  } catch (error) {
    const chains = await endOpenChains(catalog, vm.uuid);
    const { message } = describeFailure(error);
    return {
      chains,
      note: `what the chain left on VM ${vm.name} stays until its next backup, or: holdfast chain finish ${vm.name} (${message})`,
    };
  }
}

/** Nothing of the hypervisor: the next backup finds the chains ended, and the checkpoints marked to go. */
async function endOpenChains(catalog: Catalog, vmUuid: string): Promise<string[]> {
  const ended: string[] = [];
  for (const { name } of await catalog.repositories.list()) {
    const chain = await catalog.backups.lastChain(vmUuid, name);
    if (chain?.open !== true) continue;
    await catalog.backups.endChain(chain.id, 'requested');
    await catalog.checkpoints.retire(vmUuid, name);
    ended.push(chain.id);
  }
  return ended;
}
