import { CancellationScope, ContinueAsNew, continueAsNew, isCancellation, workflowInfo } from '@temporalio/workflow';
import {
  runScheduleRequest,
  type BegunScheduleRun,
  type DueVm,
  type OutcomeState,
  type RunScheduleRequest,
  type ScheduleRunSummary,
} from '../schemas/schedule.ts';
import { controlActivities } from './activity-proxies.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { fanOut } from './fan-out.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { scheduledTime } from './scheduled-time.ts';

export interface VmOutcome {
  state: Extract<OutcomeState, 'done' | 'failed' | 'skipped' | 'missed'>;
  reason: string | null;
  backupId: string | null;
}

/** What is done for one VM: null when its former run still goes on. */
export type StartWork = (
  run: BegunScheduleRun,
  vm: DueVm,
) => Promise<{ workflowId: string; firstExecutionRunId: string; outcome: () => Promise<VmOutcome> } | null>;

/** How a kind of schedule goes about its VMs. */
export interface ScheduledWork {
  /** `backing up`, for people. */
  doing: string;
  stillRuns: string;
  start: StartWork;
}

/** One run of a schedule, VM after VM, so many at once. What becomes of each is noted, and stops no other. */
export async function scheduledRun(
  operation: string,
  request: RunScheduleRequest,
  work: ScheduledWork,
): Promise<ScheduleRunSummary> {
  const asked = parseRequest(runScheduleRequest, operation, request);
  const control = controlActivities();
  const view = new OperationView(operation, '');
  view.step('looking for what is due');
  const { workflowId, firstExecutionRunId } = workflowInfo();
  await control.noteMissedRuns(asked.schedule);
  const run = await control.beginScheduleRun(asked.schedule, firstExecutionRunId, workflowId, scheduledTime());
  try {
    view.step(`${work.doing} ${run.vms} VMs`);
    const after = asked.goesOn?.after ?? -1;
    const goesOn = await fanOut(run, { after, vmsPerHistory: asked.vmsPerHistory }, (vm) => once(run, vm, work));
    if (goesOn !== null) {
      return await continueAsNew<(request: RunScheduleRequest) => Promise<ScheduleRunSummary>>({
        ...asked,
        goesOn: { after: goesOn },
      });
    }
    const summary = await control.endScheduleRun(run.runId, null);
    const { done, failed, skipped, missed } = summary;
    const told = `${done} done, ${failed} failed, ${skipped} skipped, ${missed} missed`;
    view.ended(failed > 0 ? 'failed' : 'done', told);
    return summary;
  } catch (error) {
    if (error instanceof ContinueAsNew) throw error;
    const cancelled = isCancellation(error);
    const cause = cancelled ? 'the run was cancelled' : causeOf(error);
    await CancellationScope.nonCancellable(() => control.endScheduleRun(run.runId, cause));
    view.ended(cancelled ? 'cancelled' : 'failed', cause);
    throw error;
  }
}

/** One VM's turn. Throws only when the run is cancelled. */
async function once(run: BegunScheduleRun, vm: DueVm, work: ScheduledWork): Promise<void> {
  const control = controlActivities();
  const ended = (outcome: VmOutcome) =>
    CancellationScope.nonCancellable(() => control.vmEnded(run.runId, vm.position, outcome));
  try {
    const child = await work.start(run, vm);
    if (child === null) {
      await ended({ state: 'skipped', reason: work.stillRuns, backupId: null });
      return;
    }
    const { workflowId, firstExecutionRunId } = child;
    await control.vmStarted(run.runId, vm.position, { workflowId, runId: firstExecutionRunId });
    await ended(await child.outcome());
  } catch (error) {
    const type = failureTypeOf(error);
    const state = type === 'WindowClosed' ? 'missed' : 'failed';
    await ended({ state, reason: `${type}: ${causeOf(error)}`, backupId: vm.backupId });
    // A VM that failed by itself, while the run was being cancelled, is no reason to end otherwise than cancelled.
    if (CancellationScope.current().consideredCancelled && isCancellation(error)) throw error;
  }
}
