import { CancellationScope, isCancellation, uuid4 } from '@temporalio/workflow';
import type { CopyPlan } from '../schemas/copy.ts';
import { controlActivities, hostJobs, hostUndo } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import type { OperationView } from './operation-view.ts';
import { hostWithRepositories } from './repository-host.ts';
import { thisRun } from './this-run.ts';

/** The step itself looks at the limit, over all its attempts; this one is for a step that does not answer. */
const LIMIT_SLACK_SECONDS = 60;

/**
 * Copies one backup, whose parent's copy is there, under an admission of its own: between two backups others have their turn
 * on the chain. Restores and backups go on meanwhile. Whatever ends it leaves nothing in the other repository, or the copy.
 * Returns the bytes that were written.
 */
export async function copyUnderAdmission(
  {
    backupId,
    to,
    decrypt,
    timeLimitSeconds,
  }: { backupId: string; to: string; decrypt: boolean; timeLimitSeconds: number | null },
  view: OperationView,
): Promise<number> {
  const control = controlActivities();
  const operationId = uuid4();
  let begun: { plan: CopyPlan; host?: string } | undefined;
  try {
    const order = await control.planCopy(operationId, backupId, to, timeLimitSeconds, thisRun(), decrypt);
    const { plan, admission, hosts, heartbeatSeconds } = order;
    view.about({ vm: plan.vm, repository: to, backupId });
    view.step('asking for admission');
    await admitted(admission, view);
    begun = { plan };
    if (!(await control.beginCopy(plan, thisRun()))) return await given(operationId, 0);
    const host = await hostWithRepositories(hosts, [plan.from, plan.to]);
    begun = { plan, host };
    view.about({ host });
    view.step(`copying backup ${backupId} to ${to}`);
    const limits = { timeLimitSeconds: plan.timeLimitSeconds + LIMIT_SLACK_SECONDS, heartbeatSeconds };
    const copied = await hostJobs(host, limits).copyBackupFiles(plan);
    return await CancellationScope.nonCancellable(async () => {
      await control.commitCopy(plan, copied);
      await hostUndo(host)
        .forgetCopy(plan)
        .catch((error: unknown) => view.note(`the host's notes stay for now: ${causeOf(error)}`));
      return await given(operationId, copied.writtenBytes);
    });
  } catch (error) {
    view.step(isCancellation(error) ? 'cancelled, undoing' : 'failed, undoing');
    await CancellationScope.nonCancellable(async () => {
      if (begun !== undefined) await undo(begun, error, view);
      await control.releaseAdmission(operationId);
    });
    throw error;
  }
}

async function given(operationId: string, writtenBytes: number): Promise<number> {
  await controlActivities().releaseAdmission(operationId);
  return writtenBytes;
}

/** What cannot be removed now is found again by the host's notes. */
async function undo(
  { plan, host }: { plan: CopyPlan; host?: string },
  error: unknown,
  view: OperationView,
): Promise<void> {
  if (host !== undefined) {
    await hostUndo(host)
      .undoCopy(plan)
      .catch((left: unknown) => view.note(`files in ${plan.to.name} stay for now: ${causeOf(left)}`));
  }
  const failure = isCancellation(error) ? null : { type: failureTypeOf(error), message: causeOf(error) };
  await controlActivities().endCopy(plan, failure);
}
