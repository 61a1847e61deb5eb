import { CancellationScope, uuid4 } from '@temporalio/workflow';
import { normalizeVmRequest, type NormalizeVmRequest } from '../schemas/requests.ts';
import { controlActivities } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf } from './failure-cause.ts';
import { locateVm } from './locate-vm.ts';
import { normalizeDisks } from './normalize-disks.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';

export interface NormalizedVm {
  vm: { uuid: string; name: string };
  /** What has to wait or is not as any step leaves it, in words; empty when all is well. */
  left: string[];
}

/**
 * Looks at the real images of a VM's disks, merges overlays that nothing builds on, and makes the catalog agree. The next
 * backup may still build on the newest overlay; `finishChain` does the same and ends the chain.
 */
export async function normalizeVm(request: NormalizeVmRequest): Promise<NormalizedVm> {
  const asked = parseRequest(normalizeVmRequest, 'normalizeVm', request);
  const control = controlActivities();
  const operationId = uuid4();
  const view = new OperationView('normalizeVm', asked.vm);
  try {
    view.step('looking for the VM');
    const vm = await locateVm(asked.vm, view, 600);
    view.about({ vm, host: vm.host });
    view.step('asking for admission');
    await admitted(
      {
        operationId,
        operation: 'normalizeVm',
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
    const left = await normalizeDisks(vm, view);
    view.ended('done');
    return { vm: { uuid: vm.uuid, name: vm.name }, left };
  } catch (error) {
    view.ended('failed', causeOf(error));
    throw error;
  } finally {
    await CancellationScope.nonCancellable(() => control.releaseAdmission(operationId));
  }
}
