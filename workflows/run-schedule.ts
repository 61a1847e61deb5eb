import { ChildWorkflowCancellationType, ParentClosePolicy, startChild, workflowInfo } from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import type { Backup } from '../schemas/backup.ts';
import type { TakeBackupRequest } from '../schemas/requests.ts';
import type { RunScheduleRequest, ScheduleRunSummary } from '../schemas/schedule.ts';
import { scheduledRun, type StartWork } from './scheduled-run.ts';

type TakeBackup = (request: TakeBackupRequest) => Promise<Backup>;

/** One run of a schedule: backs up each of its VMs, as assigned when it begins. */
export async function runSchedule(request: RunScheduleRequest): Promise<ScheduleRunSummary> {
  const stillRuns = 'its former scheduled backup still runs';
  return await scheduledRun('runSchedule', request, { doing: 'backing up', stillRuns, start: startBackup });
}

/**
 * The name of the run says which VM it is of and by which schedule, so Temporal itself refuses a second at the same time.
 * With `buffer-one` a second is started under another name, and waits for admission until the first is over.
 */
const startBackup: StartWork = async ({ schedule, windowEndsAt }, vm) => {
  const { name, task, overlap } = schedule;
  if (task.kind !== 'backup') return null;
  const id = `takeBackup-${name}-${vm.name}-${vm.uuid}`;
  for (const workflowId of overlap === 'buffer-one' ? [id, `${id}-next`] : [id]) {
    try {
      const child = await startChild<TakeBackup>('takeBackup', {
        workflowId,
        taskQueue: workflowInfo().taskQueue,
        args: [
          {
            vm: vm.uuid,
            requestedBy: `schedule ${name}`,
            ...(windowEndsAt === null ? {} : { startBefore: windowEndsAt }),
            ...(task.offering === null ? {} : { offering: task.offering }),
            ...(task.full ? { full: true } : {}),
            ...(task.isolated ? { isolated: true } : {}),
          },
        ],
        parentClosePolicy: ParentClosePolicy.ABANDON, // a run that is ended by force leaves backups that end well
        cancellationType: ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
      });
      const { firstExecutionRunId } = child;
      const outcome = async () => ({ state: 'done' as const, reason: null, backupId: (await child.result()).id });
      return { workflowId, firstExecutionRunId, outcome };
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    }
  }
  return null;
};
