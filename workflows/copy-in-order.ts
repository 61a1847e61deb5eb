import { isCancellation, workflowInfo } from '@temporalio/workflow';
import type { CopyOrder, PlannedCopies } from '../activities/control/copies.ts';
import type { CopiedVm } from '../schemas/copy.ts';
import { controlActivities } from './activity-proxies.ts';
import { copyUnderAdmission } from './copy-under-admission.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import type { OperationView } from './operation-view.ts';

export interface CopyWishes {
  dryRun: boolean;
  timeLimitSeconds: number | null;
}

/**
 * Copies what is missing of a VM's backups, or of one, parents before their children. What is built on one that could not be
 * copied is left out; the others go on.
 * @param goOn begins a new history with what was done so far
 */
export async function copyInOrder(
  order: CopyOrder,
  wishes: CopyWishes,
  view: OperationView,
  carried: CopiedVm | undefined,
  goOn: (carried: CopiedVm) => Promise<never>,
): Promise<CopiedVm> {
  const control = controlActivities();
  let done = carried;
  for (;;) {
    view.step('looking for what is to be copied');
    const planned = await control.planCopies(order, done?.problems.map(({ id }) => id) ?? []);
    const { vm, steps, revived } = planned;
    view.about({ vm, repository: order.to });
    done ??= {
      vm,
      repository: order.to,
      dryRun: wishes.dryRun,
      copied: [],
      present: planned.present,
      problems: [],
      left: 0,
      writtenBytes: 0,
    };
    for (const problem of planned.blocked) note(done, problem);
    if (wishes.dryRun) {
      return {
        ...done,
        copied: steps,
        left: planned.left,
        writtenBytes: steps.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
      };
    }
    if (revived.length > 0) await control.reviveCopies(revived, order.to);
    await copySteps(steps, order, wishes, done, view);
    if (planned.left === 0) return done;
    if (workflowInfo().continueAsNewSuggested) await goOn(done);
  }
}

async function copySteps(
  steps: PlannedCopies['steps'],
  { to, decrypt = false }: CopyOrder,
  { timeLimitSeconds }: CopyWishes,
  done: CopiedVm,
  view: OperationView,
): Promise<void> {
  for (const step of steps) {
    const failed = done.problems.find(({ id }) => id === step.parentId);
    if (failed !== undefined) {
      note(done, { id: step.id, type: failed.type, message: `built on backup ${failed.id}, which was not copied` });
      continue;
    }
    try {
      done.writtenBytes += await copyUnderAdmission({ backupId: step.id, to, decrypt, timeLimitSeconds }, view);
      done.copied.push(step);
    } catch (error) {
      if (isCancellation(error)) throw error;
      note(done, { id: step.id, type: failureTypeOf(error), message: causeOf(error) });
    }
  }
}

function note(done: CopiedVm, problem: CopiedVm['problems'][number]): void {
  if (!done.problems.some(({ id }) => id === problem.id)) done.problems.push(problem);
}
