import {
  CancellationScope,
  ChildWorkflowCancellationType,
  continueAsNew,
  isCancellation,
  ParentClosePolicy,
  startChild,
  workflowInfo,
  type ChildWorkflowHandle,
} from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import type { Backup } from '../schemas/backup.ts';
import type { TakeBackupRequest } from '../schemas/requests.ts';
import {
  runScheduleRequest,
  type BegunScheduleRun,
  type DueVm,
  type RunScheduleRequest,
  type ScheduleRunSummary,
} from '../schemas/schedule.ts';
import { controlActivities } from './activity-proxies.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { fanOut } from './fan-out.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { scheduledTime } from './scheduled-time.ts';

type TakeBackup = (request: TakeBackupRequest) => Promise<Backup>;

/** One run of a schedule: backs up each of its VMs, and notes what became of each. One VM's failure stops no other. */
export async function runSchedule(request: RunScheduleRequest): Promise<ScheduleRunSummary> {
  const asked = parseRequest(runScheduleRequest, 'runSchedule', request);
  const control = controlActivities();
  const view = new OperationView('runSchedule', '');
  view.step('looking for what is due');
  const { workflowId, firstExecutionRunId } = workflowInfo();
  await control.noteMissedRuns(asked.schedule);
  const run = await control.beginScheduleRun(asked.schedule, firstExecutionRunId, workflowId, scheduledTime());
  try {
    view.step(`backing up ${run.vms} VMs`);
    const goesOn = await fanOut(
      run,
      {
        after: asked.goesOn?.after ?? -1,
        vmsPerHistory: asked.vmsPerHistory,
        endsAt: run.windowEndsAt,
        tooLate: windowOver(run),
      },
      (vm) => backUp(run, vm),
    );
    if (goesOn === null) {
      const summary = await control.endScheduleRun(run.runId, null);
      const { done, failed, skipped, missed } = summary;
      view.ended(
        failed > 0 ? 'failed' : 'done',
        `${done} done, ${failed} failed, ${skipped} skipped, ${missed} missed`,
      );
      return summary;
    }
    return await continueAsNew<typeof runSchedule>({ ...asked, goesOn: { after: goesOn } });
  } catch (error) {
    if (!isCancellation(error)) throw error;
    await CancellationScope.nonCancellable(() => control.endScheduleRun(run.runId, 'the run was cancelled'));
    view.ended('cancelled', 'cancelled by request');
    throw error;
  }
}

const windowOver = ({ schedule, windowEndsAt }: BegunScheduleRun): string =>
  `the window of schedule ${schedule.name} ended at ${windowEndsAt ?? ''} before its turn came`;

/** Backs up one VM and notes the outcome. Throws only when the run is cancelled. */
async function backUp(run: BegunScheduleRun, vm: DueVm): Promise<void> {
  const control = controlActivities();
  const child = await startBackup(run, vm);
  if (child === null) {
    const reason = 'its former scheduled backup still runs';
    await control.vmEnded(run.runId, vm.position, { state: 'skipped', reason, backupId: null });
    return;
  }
  await control.vmStarted(run.runId, vm.position, { workflowId: child.workflowId, runId: child.firstExecutionRunId });
  try {
    const { id } = await child.result();
    await control.vmEnded(run.runId, vm.position, { state: 'done', reason: null, backupId: id });
  } catch (error) {
    const type = failureTypeOf(error);
    await CancellationScope.nonCancellable(() =>
      control.vmEnded(run.runId, vm.position, {
        state: 'failed',
        reason: `${type}: ${causeOf(error)}`,
        backupId: null,
      }),
    );
    if (CancellationScope.current().consideredCancelled) throw error;
  }
}

/**
 * The name of the run says which VM it is of and by which schedule, so Temporal itself refuses a second at the same time.
 * With `buffer-one` a second is started under another name, and waits for admission until the first is over.
 */
async function startBackup(run: BegunScheduleRun, vm: DueVm): Promise<ChildWorkflowHandle<TakeBackup> | null> {
  const { name, task, overlap } = run.schedule;
  if (task.kind !== 'backup') return null;
  const id = `takeBackup-${name}-${vm.name}-${vm.uuid}`;
  for (const workflowId of overlap === 'buffer-one' ? [id, `${id}-next`] : [id]) {
    try {
      return await startChild<TakeBackup>('takeBackup', {
        workflowId,
        taskQueue: workflowInfo().taskQueue,
        args: [
          {
            vm: vm.uuid,
            requestedBy: `schedule ${name}`,
            ...(task.offering === null ? {} : { offering: task.offering }),
            ...(task.full ? { full: true } : {}),
            ...(task.isolated ? { isolated: true } : {}),
          },
        ],
        parentClosePolicy: ParentClosePolicy.ABANDON, // a run that is ended by force leaves backups that end well
        cancellationType: ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
      });
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    }
  }
  return null;
}
