import { CancellationScope, isCancellation } from '@temporalio/workflow';
import type { AdmissionRequest } from '../schemas/catalog.ts';
import type { RewritePlan, RewrittenFiles, SwappedBackup } from '../schemas/rewrite-plan.ts';
import { controlActivities, hostActivities, hostJobs, hostUndo } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import type { OperationView } from './operation-view.ts';
import { hostWithRepository } from './repository-host.ts';
import { thisRun } from './this-run.ts';

/** The step itself looks at the limit, over all its attempts; this one is for a step that does not answer. */
const LIMIT_SLACK_SECONDS = 60;

export interface RewriteOrder {
  plan: RewritePlan;
  /** For the long part. The short one has the VM and the chain to itself. */
  admission: AdmissionRequest;
  hosts: string[];
  heartbeatSeconds: number;
}

/**
 * Writes a backup's files anew beside, compares them, and swaps them in. While they are written restores and backups go
 * on; the swap waits until nobody reads the chain or builds on it. `conclude` takes over what became of the backup; files that are
 * not worth swapping leave it null. `stillMeant` throws when things have changed before the swap. Whatever ends it before the swap leaves the former files, and nothing beside.
 */
export async function rewriteUnderAdmission<T>(
  { plan, admission, hosts, heartbeatSeconds }: RewriteOrder,
  view: OperationView,
  conclude: (swapped: SwappedBackup | null, host: string) => Promise<T>,
  stillMeant?: () => Promise<void>,
): Promise<T> {
  const control = controlActivities();
  let host: string | undefined;
  try {
    view.step('asking for admission');
    await admitted(admission, view);
    await control.beginRewrite(plan, thisRun());
    host = await hostWithRepository(hosts, plan.repository);
    view.about({ host });
    view.step('rewriting beside');
    const limits = { timeLimitSeconds: plan.timeLimitSeconds + LIMIT_SLACK_SECONDS, heartbeatSeconds };
    const rewritten = await hostJobs(host, limits).rewriteBackup(plan);
    if (isUnchanged(rewritten)) return await finish(plan, host, () => conclude(null, host ?? ''), view);
    view.step('waiting to swap the files');
    await control.releaseAdmission(plan.operationId);
    await admitted(exclusive(admission, plan), view);
    return await CancellationScope.nonCancellable(async () => {
      view.step('swapping the files');
      await stillMeant?.();
      await control.finalizeRewrite(plan);
      const swapped = await hostActivities(host ?? '').swapRewritten(plan, rewritten);
      return await finish(plan, host ?? '', () => conclude(swapped, host ?? ''), view);
    });
  } catch (error) {
    view.step(isCancellation(error) ? 'cancelled, undoing' : 'failed, undoing');
    await CancellationScope.nonCancellable(() => undo(plan, host, error, view));
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

const isUnchanged = ({ found, disks }: RewrittenFiles): boolean => found === 'rewritten' && disks.length === 0;

/** Nobody restores from the chain, and no backup of the VM looks at the files it would build on. */
const exclusive = (admission: AdmissionRequest, { vm }: RewritePlan): AdmissionRequest => ({
  ...admission,
  vmUuid: vm.uuid,
  chain: admission.chain && { ...admission.chain, mode: 'exclusive' },
});

async function finish<T>(plan: RewritePlan, host: string, conclude: () => Promise<T>, view: OperationView): Promise<T> {
  return await CancellationScope.nonCancellable(async () => {
    const concluded = await conclude();
    await controlActivities().releaseAdmission(plan.operationId);
    await hostUndo(host)
      .forgetRewrite(plan)
      .catch((error: unknown) => view.note(`the host's notes stay for now: ${causeOf(error)}`));
    return concluded;
  });
}

async function undo(plan: RewritePlan, host: string | undefined, error: unknown, view: OperationView): Promise<void> {
  const control = controlActivities();
  if (host !== undefined) {
    await hostUndo(host)
      .undoRewrite(plan)
      .catch((left: unknown) => view.note(`files beside stay for now: ${causeOf(left)}`));
  }
  const failure = isCancellation(error) ? null : { type: failureTypeOf(error), message: causeOf(error) };
  await control.endRewrite(plan, failure);
  await control.releaseAdmission(plan.operationId);
}
