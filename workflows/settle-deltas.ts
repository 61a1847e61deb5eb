import type { DeltasOnVm } from '../activities/control/deltas.ts';
import type { BackupTarget } from '../schemas/plan.ts';
import { controlActivities, hostMerges } from './activity-proxies.ts';
import type { OperationView } from './operation-view.ts';

/**
 * Merges the overlays of strategy `snapshot` that nothing builds on into the images below them, and takes over in the
 * catalog what became of each. Gives what has to wait or cannot be settled, in words; sound
 * are disks whose images are as our steps leave them.
 */
export async function settleDeltas(
  { vm, host }: Pick<BackupTarget, 'vm' | 'host'>,
  found: DeltasOnVm,
  view: OperationView,
): Promise<{ notes: string[]; isSound: boolean }> {
  if (found.drop.length === 0 && found.keep.length === 0) return { notes: [], isSound: true };
  view.step('merging overlays');
  const settled = await hostMerges(host).mergeDeltas({ vm }, found);
  const notes = await controlActivities().deltasSettled(vm.uuid, settled);
  for (const note of notes) view.note(note);
  return { notes, isSound: settled.anomalies.length === 0 };
}
