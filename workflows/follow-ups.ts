import { log, ParentClosePolicy, startChild, workflowInfo } from '@temporalio/workflow';
import type { BackupPlan } from '../schemas/plan.ts';
import { causeOf } from './failure-cause.ts';

/**
 * Starts what the VM's offering wants to happen after a backup. Each is a run of its own, which outlives this one and asks
 * for its own admission; that one of them cannot be started fails nothing: the backup is stored.
 */
export async function startFollowUps({ backupId, target }: BackupPlan): Promise<void> {
  for (const workflow of target.followUps ?? []) {
    const request =
      workflow === 'applyRetention'
        ? { vm: target.vm.uuid }
        : { backupId, ...(workflow === 'copyBackup' ? { to: target.copyTo } : {}) };
    try {
      await startChild(workflow, {
        workflowId: `${workflow}-${target.vm.name}-${backupId}`,
        taskQueue: workflowInfo().taskQueue,
        args: [request],
        parentClosePolicy: ParentClosePolicy.ABANDON,
      });
    } catch (error) {
      log.warn('a follow-up was not started', { workflow, backup: backupId, cause: causeOf(error) });
    }
  }
}
