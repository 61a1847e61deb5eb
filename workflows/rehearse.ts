import { ChildWorkflowCancellationType, ParentClosePolicy, startChild, workflowInfo } from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import type { ValidateBackupRequest } from '../schemas/requests.ts';
import type { RunScheduleRequest, ScheduleRunSummary } from '../schemas/schedule.ts';
import { reasonOf } from '../schemas/validation.ts';
import { scheduledRun, type StartWork } from './scheduled-run.ts';
import type { ValidatedBackup } from './validate-backup.ts';

type ValidateBackup = (request: ValidateBackupRequest) => Promise<ValidatedBackup>;

/** One run of a rehearsal: proves VMs from a backup of each, those first that were tested longest ago. */
export async function rehearse(request: RunScheduleRequest): Promise<ScheduleRunSummary> {
  const stillRuns = 'that backup is being validated already';
  return await scheduledRun('rehearse', request, { doing: 'validating backups of', stillRuns, start: startValidation });
}

const startValidation: StartWork = async ({ schedule: { name, task } }, { name: vmName, backupId }) => {
  if (task.kind !== 'rehearsal' || backupId === null) return null;
  const workflowId = `validateBackup-${vmName}-${backupId}`;
  try {
    const child = await startChild<ValidateBackup>('validateBackup', {
      workflowId,
      taskQueue: workflowInfo().taskQueue,
      args: [{ backupId, steps: task.steps, requestedBy: `schedule ${name}` }],
      parentClosePolicy: ParentClosePolicy.ABANDON,
      cancellationType: ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    });
    const { firstExecutionRunId } = child;
    const outcome = async () => {
      const { validationResult: result } = await child.result();
      const valid = result.state === 'Valid';
      return {
        state: valid ? ('done' as const) : ('failed' as const),
        reason: valid ? null : `${result.state}: ${reasonOf(result)}`,
        backupId,
      };
    };
    return { workflowId, firstExecutionRunId, outcome };
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    return null;
  }
};
