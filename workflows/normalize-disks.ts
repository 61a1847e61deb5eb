import type { VmRecord } from '../schemas/catalog.ts';
import { controlActivities } from './activity-proxies.ts';
import type { OperationView } from './operation-view.ts';
import { settleDeltas } from './settle-deltas.ts';

/**
 * Makes a VM's disks and the catalog agree about overlays, and merges those that nothing builds on. Gives what has
 * to wait or cannot be settled, in words; for what cannot, the VM keeps its mark. For a caller to whom the VM is admitted.
 */
export async function normalizeDisks(
  { uuid, name, host }: Pick<VmRecord, 'uuid' | 'name' | 'host'>,
  view: OperationView,
): Promise<string[]> {
  const control = controlActivities();
  const { notes, isSound } = await settleDeltas({ vm: { uuid, name }, host }, await control.deltasOnVm(uuid), view);
  if (isSound) await control.mergeRepaired(uuid);
  return notes;
}
