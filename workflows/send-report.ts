import { ApplicationFailure, CancellationScope, isCancellation, workflowInfo } from '@temporalio/workflow';
import { runScheduleRequest, type RunScheduleRequest } from '../schemas/schedule.ts';
import { controlActivities, deliveries } from './activity-proxies.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { scheduledTime } from './scheduled-time.ts';

export interface SentReport {
  reportId: string;
  /** `webhook`, and addresses. */
  sentTo: string[];
}

/** Sends a schedule's report wherever it is to go. One that cannot be delivered keeps none of the others. */
export async function sendReport(request: RunScheduleRequest): Promise<SentReport> {
  const asked = parseRequest(runScheduleRequest, 'sendReport', request);
  const control = controlActivities();
  const view = new OperationView('sendReport', '');
  view.step('looking for what was missed');
  const { workflowId, firstExecutionRunId } = workflowInfo();
  await control.noteAllMissedRuns();
  const { runId, schedule } = await control.beginScheduleRun(
    asked.schedule,
    firstExecutionRunId,
    workflowId,
    scheduledTime(),
  );
  try {
    const { task } = schedule;
    if (task.kind !== 'report') {
      throw ApplicationFailure.nonRetryable(`schedule ${schedule.name} makes no report`, 'InvalidRequest');
    }
    view.step('delivering the report');
    const sentTo: string[] = [];
    const failures: { type: string; message: string }[] = [];
    const deliver = async (to: string, send: () => Promise<void>): Promise<void> => {
      try {
        await send();
        sentTo.push(to);
      } catch (error) {
        if (isCancellation(error)) throw error;
        failures.push({ type: failureTypeOf(error), message: causeOf(error) });
      }
    };
    await Promise.all([
      ...(task.webhook ? [deliver('webhook', () => deliveries().postReport(runId))] : []),
      ...task.mailTo.map((to) => deliver(to, () => deliveries().mailReport(runId, to))),
    ]);
    const [first] = failures;
    if (first !== undefined) {
      const message = failures.map((failure) => failure.message).join('; ');
      throw ApplicationFailure.nonRetryable(message, first.type);
    }
    await control.endScheduleRun(runId, null);
    view.ended('done', `sent to ${sentTo.join(', ')}`);
    return { reportId: runId, sentTo };
  } catch (error) {
    await CancellationScope.nonCancellable(() => control.endScheduleRun(runId, causeOf(error)));
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}
