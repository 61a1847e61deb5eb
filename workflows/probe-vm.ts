import { probeVmRequest, type ProbeVmRequest, type VmProbe } from '../schemas/probe.ts';
import { hostProbes } from './activity-proxies.ts';
import { causeOf } from './failure-cause.ts';
import { locateVm } from './locate-vm.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';

/** Looks at a VM where it is: an answer soon, or none. Changes nothing, so it asks for no admission. */
export async function probeVm(request: ProbeVmRequest): Promise<VmProbe> {
  const asked = parseRequest(probeVmRequest, 'probeVm', request);
  const view = new OperationView('probeVm', asked.vm);
  try {
    view.step('looking for the VM');
    const vm = await locateVm(asked.vm, view, 0);
    view.about({ vm, host: vm.host });
    view.step('looking at its checkpoints');
    const probe = await hostProbes(vm.host).probeVm({ uuid: vm.uuid, name: vm.name }, asked);
    view.ended('done');
    return probe;
  } catch (error) {
    view.ended('failed', causeOf(error));
    throw error;
  }
}
