import { isCancellation, uuid4 } from '@temporalio/workflow';
import type { DeletePlan } from '../schemas/delete-plan.ts';
import { deleteBackupRequest, type DeleteBackupRequest } from '../schemas/requests.ts';
import { controlActivities } from './activity-proxies.ts';
import { deleteUnderAdmission } from './delete-under-admission.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';

export type DeletedBackup = DeletePlan & { copies?: DeletePlan[] };

/**
 * Deletes a backup: hides it while others are built on it, else removes its files and those kept for it alone. Its copies in
 * other repositories stay unless they are asked for.
 */
export async function deleteBackup(request: DeleteBackupRequest): Promise<DeletedBackup> {
  const asked = parseRequest(deleteBackupRequest, 'deleteBackup', request);
  const view = new OperationView('deleteBackup', '');
  try {
    view.step('planning');
    const own = await deleteOne(asked, asked.repository, view);
    if (asked.copies !== true) {
      view.ended('done', asked.dryRun === true ? 'a dry run: nothing was deleted' : undefined);
      return own;
    }
    const copies: DeletePlan[] = [];
    for (const repository of await controlActivities().copiesOf(asked.backupId)) {
      copies.push(await deleteOne(asked, repository, view));
    }
    view.ended('done', asked.dryRun === true ? 'a dry run: nothing was deleted' : undefined);
    return { ...own, copies };
  } catch (error) {
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

/** The original, or with a repository the copy there. */
async function deleteOne(
  { backupId, force = false, dryRun = false }: DeleteBackupRequest,
  repository: string | undefined,
  view: OperationView,
): Promise<DeletePlan> {
  if (dryRun) {
    const asked = repository === undefined ? [] : ([repository] as const);
    const found = await controlActivities().planDelete(uuid4(), backupId, force, thisRun(), ...asked);
    view.about({ vm: found.plan.vm, repository: found.repository.name, backupId });
    return found.plan;
  }
  const plan = await deleteUnderAdmission({ backupId, force, repository }, view);
  if (plan === null) throw new Error('a delete that was asked for is meant');
  return plan;
}
