import { ApplicationFailure, CancellationScope, patched, uuid4 } from '@temporalio/workflow';
import type { VmRecord } from '../schemas/catalog.ts';
import { finishChainRequest, type FinishChainRequest } from '../schemas/requests.ts';
import { controlActivities, hostActivities, hostUndo } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { locateVm } from './locate-vm.ts';
import { normalizeDisks } from './normalize-disks.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';

export interface FinishedChain {
  vm: { uuid: string; name: string };
  /** Chains that were open and are ended now. */
  chains: string[];
  /** Backups that had left something on the VM, now undone. */
  repaired: string[];
  /** Backups whose checkpoints were on the VM for nothing, and are gone. */
  tidied: string[];
  /** What stays on the VM for now, and until when; null when nothing does. */
  left: string | null;
}

/** How long the removal of an offering waits for a host: the chain can be ended without it. */
const PATIENCE_SECONDS = { finish: 600, unprotected: 20 };

/** Ends a VM's open chain, so that its next backup is full; and repairs a VM that a failed backup left marked. */
export async function finishChain(request: FinishChainRequest): Promise<FinishedChain> {
  const asked = parseRequest(finishChainRequest, 'finishChain', request);
  const unprotected = asked.unprotected ?? false;
  const control = controlActivities();
  const operationId = uuid4();
  const view = new OperationView('finishChain', asked.vm);
  try {
    view.step('looking for the VM');
    const { vm, absent } = await found(asked.vm, unprotected, view);
    view.about({ vm, host: vm.host });
    view.step('asking for admission');
    await admitted(
      {
        operationId,
        operation: 'finishChain',
        ...thisRun(),
        vmUuid: vm.uuid,
        chain: null,
        host: absent === null ? vm.host : null,
        repository: null,
        tenant: 'default',
        priority: 1,
      },
      view,
    );
    const { repairs, openChains, leftovers, overlays = false } = await control.chainState(vm.uuid);
    if (openChains.length === 0 && repairs.length === 0 && leftovers.length === 0 && !overlays && !unprotected) {
      throw nothingToFinish(vm);
    }
    const repaired: string[] = [];
    for (const { backupId, target } of absent === null ? repairs : []) {
      view.step(`undoing what backup ${backupId} left`);
      const aborted = await hostUndo(vm.host).abortBackup(backupId, { ...target, host: vm.host });
      const { published, leftInRepository } = aborted;
      if (leftInRepository !== null) view.note(leftInRepository);
      if (published !== null && patched('list-published')) {
        view.note(`backup ${backupId} was published, and is listed now`);
        await control.relistBackup(published.plan, published.completed);
        await hostUndo(vm.host).forgetBackup(backupId);
      } else {
        await control.backupRepaired(vm.uuid, backupId);
      }
      repaired.push(backupId);
    }
    view.step('ending the chain');
    const { stale, target } = await control.endChains(vm.uuid, openChains);
    let left: string | null = null;
    let tidied: string[] = [];
    if (stale.length > 0 && target !== null) {
      const kept = `${stale.length} checkpoints stay on VM ${vm.name} until its next backup, or: holdfast chain finish ${vm.name}`;
      if (absent !== null) left = `${kept} (${absent})`;
      else
        await hostActivities(vm.host)
          .removeCheckpoints({ ...target, host: vm.host }, stale)
          .then(() => control.checkpointsRemoved(vm.uuid, stale))
          .then(() => (tidied = stale))
          .catch((error: unknown) => (left = `${kept} (${causeOf(error)})`));
    }
    if (overlays) left = (await mergeAll(vm, absent, view)) ?? left;
    if (left !== null) view.note(left);
    view.ended('done');
    return {
      vm: { uuid: vm.uuid, name: vm.name },
      chains: openChains,
      repaired,
      tidied,
      left,
    };
  } catch (error) {
    view.ended('failed', causeOf(error));
    throw error;
  } finally {
    await CancellationScope.nonCancellable(() => control.releaseAdmission(operationId));
  }
}

/** Merges the overlays of strategy `snapshot`; why they stay, if they do. */
async function mergeAll(vm: VmRecord, absent: string | null, view: OperationView): Promise<string | null> {
  const kept = `overlays stay on the disks of VM ${vm.name} until: holdfast chain finish ${vm.name}`;
  if (absent !== null) return `${kept} (${absent})`;
  const notes = await normalizeDisks(vm, view);
  return notes.length === 0 ? null : notes.join('; ');
}

/** The VM where it is; or, when its offering was taken away and no host shows it, as the catalog knows it, and why. */
async function found(
  name: string,
  unprotected: boolean,
  view: OperationView,
): Promise<{ vm: VmRecord; absent: string | null }> {
  const patience = unprotected ? PATIENCE_SECONDS.unprotected : PATIENCE_SECONDS.finish;
  try {
    return { vm: await locateVm(name, view, patience), absent: null };
  } catch (error) {
    const type = failureTypeOf(error);
    if (!unprotected || (type !== 'HostUnreachable' && type !== 'VmNotFound')) throw error;
    const vm = await controlActivities().knownVm(name);
    if (vm === null) throw error;
    return { vm, absent: causeOf(error) };
  }
}

const nothingToFinish = (vm: VmRecord): ApplicationFailure =>
  vm.offering === null
    ? ApplicationFailure.create({
        type: 'NotProtected',
        nonRetryable: true,
        message: `VM ${vm.name} is not protected by an offering and has no open chain: nothing to finish`,
      })
    : ApplicationFailure.create({
        type: 'NothingToFinish',
        nonRetryable: true,
        message: `VM ${vm.name} has no open chain: nothing to finish`,
      });
