import { ApplicationFailure, CancellationScope, uuid4 } from '@temporalio/workflow';
import { finishChainRequest, type FinishChainRequest } from '../schemas/requests.ts';
import { controlActivities, hostActivities, hostUndo } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf } from './failure-cause.ts';
import { locateVm } from './locate-vm.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';

export interface FinishedChain {
  vm: { uuid: string; name: string };
  /** Chains that were open and are ended now. */
  chains: string[];
  /** Backups that had left something on the VM, now undone. */
  repaired: string[];
}

/** Ends a VM's open chain, so that its next backup is full; and repairs a VM that a failed backup left marked. */
export async function finishChain(request: FinishChainRequest): Promise<FinishedChain> {
  const asked = parseRequest(finishChainRequest, 'finishChain', request);
  const control = controlActivities();
  const operationId = uuid4();
  const view = new OperationView('finishChain', asked.vm);
  try {
    view.step('looking for the VM');
    const vm = await locateVm(asked.vm, view, 600);
    view.about({ vm, host: vm.host });
    view.step('asking for admission');
    await admitted(
      {
        operationId,
        operation: 'finishChain',
        ...thisRun(),
        vmUuid: vm.uuid,
        chain: null,
        host: vm.host,
        repository: null,
        tenant: 'default',
        priority: 1,
      },
      view,
    );
    const { repairs, openChains } = await control.chainState(vm.uuid);
    for (const { backupId, target } of repairs) {
      view.step(`undoing what backup ${backupId} left`);
      const { leftInRepository } = await hostUndo(vm.host).abortBackup(backupId, { ...target, host: vm.host });
      if (leftInRepository !== null) view.note(leftInRepository);
      await control.backupRepaired(vm.uuid, backupId);
    }
    if (openChains.length === 0 && repairs.length === 0) {
      throw ApplicationFailure.create({
        type: 'NothingToFinish',
        nonRetryable: true,
        message: `VM ${vm.name} has no open chain: nothing to finish`,
      });
    }
    view.step('ending the chain');
    const { stale, target } = await control.endChains(vm.uuid, openChains);
    if (stale.length > 0 && target !== null) {
      await hostActivities(vm.host)
        .removeCheckpoints({ ...target, host: vm.host }, stale)
        .then(() => control.checkpointsRemoved(vm.uuid, stale))
        .catch((error: unknown) => view.note(`checkpoints stay until the next backup: ${causeOf(error)}`));
    }
    view.ended('done');
    return {
      vm: { uuid: vm.uuid, name: vm.name },
      chains: openChains,
      repaired: repairs.map(({ backupId }) => backupId),
    };
  } catch (error) {
    view.ended('failed', causeOf(error));
    throw error;
  } finally {
    await CancellationScope.nonCancellable(() => control.releaseAdmission(operationId));
  }
}
