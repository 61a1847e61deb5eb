import { CancellationScope, ParentClosePolicy, startChild } from '@temporalio/workflow';
import type { RestoredVm } from '../schemas/backup.ts';
import { consolidationJob } from '../schemas/consolidation.ts';
import { CONTROL_QUEUE } from '../schemas/queues.ts';
import type { RestorePlan } from '../schemas/restore-plan.ts';
import { controlActivities, hostActivities, hostUndo } from './activity-proxies.ts';
import type { Compensations } from './compensations.ts';
import type { OperationView } from './operation-view.ts';
import { thisRun } from './this-run.ts';

/**
 * Boots the VM on its backup and leaves the rest to `consolidateDisks`. Until the VM runs all can be undone; from then on
 * what its guest writes counts. What this restore was granted goes over to the consolidation, without a gap.
 */
export async function quickRestore(
  plan: RestorePlan,
  view: OperationView,
  compensations: Compensations,
): Promise<RestoredVm> {
  const control = controlActivities();
  const host = hostActivities(plan.host);
  view.step('checking the backup and the place to restore to');
  compensations.add('undo quick restore', async () => {
    await hostUndo(plan.host).undoQuickRestore(plan);
    await control.forgetQuickRestore(plan.restoreId); // only now: else nobody would come to undo the rest
  });
  const prepared = await host.prepareRestore(plan);
  for (const { target, format } of prepared.disks) {
    if (format === 'raw') view.note(`disk ${target} was raw and becomes a qcow2`);
  }
  await control.noteQuickRestore(plan, prepared, thisRun());
  return await CancellationScope.nonCancellable(async () => {
    view.step('booting the VM on the backup');
    const restored = await host.bootOnBackup(plan, prepared);
    await control.commitQuickRestore(plan, restored);
    const jobId = consolidationJob({ vm: restored.vm, id: plan.restoreId });
    const { firstExecutionRunId } = await startChild('consolidateDisks', {
      workflowId: jobId,
      taskQueue: CONTROL_QUEUE,
      args: [{ vm: restored.vm.uuid }],
      parentClosePolicy: ParentClosePolicy.ABANDON,
    });
    await control.handOverToConsolidation(plan.restoreId, { workflowId: jobId, runId: firstExecutionRunId });
    view.ended('done', `VM ${restored.vm.name} runs on the backup; its disks are being pulled by job ${jobId}`);
    return { ...restored, consolidation: jobId };
  });
}
