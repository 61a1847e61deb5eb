import { isCancellation, uuid4 } from '@temporalio/workflow';
import type { DeletePlan } from '../schemas/delete-plan.ts';
import { deleteBackupRequest, type DeleteBackupRequest } from '../schemas/requests.ts';
import { controlActivities } from './activity-proxies.ts';
import { deleteUnderAdmission } from './delete-under-admission.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';

/** Deletes a backup: hides it while others are built on it, else removes its files and those kept for it alone. */
export async function deleteBackup(request: DeleteBackupRequest): Promise<DeletePlan> {
  const { backupId, force = false, dryRun = false } = parseRequest(deleteBackupRequest, 'deleteBackup', request);
  const view = new OperationView('deleteBackup', '');
  try {
    view.step('planning');
    if (dryRun) {
      const { plan, repository } = await controlActivities().planDelete(uuid4(), backupId, force, thisRun());
      view.about({ vm: plan.vm, repository: repository.name, backupId });
      view.ended('done', 'a dry run: nothing was deleted');
      return plan;
    }
    const plan = await deleteUnderAdmission({ backupId, force }, view);
    if (plan === null) throw new Error('a delete that was asked for is meant');
    view.ended('done');
    return plan;
  } catch (error) {
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}
