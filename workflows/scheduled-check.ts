import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import {
  ApplicationFailure,
  CancellationScope,
  ChildWorkflowCancellationType,
  isCancellation,
  ParentClosePolicy,
  startChild,
  workflowInfo,
} from '@temporalio/workflow';
import type { CheckedRepository } from '../schemas/check.ts';
import type { CheckRepositoryRequest } from '../schemas/requests.ts';
import { runScheduleRequest, type RunScheduleRequest } from '../schemas/schedule.ts';
import { controlActivities } from './activity-proxies.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { scheduledTime } from './scheduled-time.ts';

/** One run of a scheduled check: compares what would else be older than promised before the next. */
export async function scheduledCheck(request: RunScheduleRequest): Promise<CheckedRepository> {
  const asked = parseRequest(runScheduleRequest, 'scheduledCheck', request);
  const control = controlActivities();
  const view = new OperationView('scheduledCheck', '');
  const { workflowId, firstExecutionRunId } = workflowInfo();
  await control.noteMissedRuns(asked.schedule);
  const { runId, schedule } = await control.beginScheduleRun(
    asked.schedule,
    firstExecutionRunId,
    workflowId,
    scheduledTime(),
  );
  try {
    const check = await control.scheduledCheckRequest(schedule);
    view.about({ repository: check.repository });
    view.step('comparing stored bytes with their hashes');
    const checked = await checkOf(check);
    const { files, damagedFiles } = checked;
    const cause = damagedFiles === 0 ? null : `${damagedFiles} of ${files} files are damaged`;
    await control.endScheduleRun(runId, cause);
    view.ended(cause === null ? 'done' : 'failed', cause ?? `${files} files are right`);
    return checked;
  } catch (error) {
    const cause = isCancellation(error) ? 'the run was cancelled' : causeOf(error);
    await CancellationScope.nonCancellable(() => control.endScheduleRun(runId, cause));
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', cause);
    throw error;
  }
}

/** The name of the run says of which repository it is, so Temporal itself refuses a second at the same time. */
async function checkOf(request: CheckRepositoryRequest): Promise<CheckedRepository> {
  try {
    const child = await startChild<(request: CheckRepositoryRequest) => Promise<CheckedRepository>>('checkRepository', {
      workflowId: `checkRepository-${request.repository}`,
      taskQueue: workflowInfo().taskQueue,
      args: [request],
      parentClosePolicy: ParentClosePolicy.ABANDON,
      cancellationType: ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
    });
    return await child.result();
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    throw ApplicationFailure.nonRetryable(
      `repository ${request.repository} is being checked by another schedule`,
      'InvalidRequest',
    );
  }
}
