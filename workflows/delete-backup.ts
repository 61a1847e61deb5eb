import { CancellationScope, uuid4 } from '@temporalio/workflow';
import type { DeletePlan } from '../schemas/delete-plan.ts';
import { deleteBackupRequest, type DeleteBackupRequest } from '../schemas/requests.ts';
import { controlActivities, hostDeletes } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';

/** Deletes a backup: hides it while others are built on it, else removes its files and those kept for it alone. */
export async function deleteBackup(request: DeleteBackupRequest): Promise<DeletePlan> {
  const asked = parseRequest(deleteBackupRequest, 'deleteBackup', request);
  const control = controlActivities();
  const operationId = uuid4();
  const view = new OperationView('deleteBackup', '');
  const force = asked.force ?? false;
  try {
    view.step('planning');
    const first = await control.planDelete(operationId, asked.backupId, force, thisRun());
    view.about({ vm: first.plan.vm, host: first.host, repository: first.repository.name, backupId: asked.backupId });
    if (asked.dryRun === true) {
      view.ended('done', 'a dry run: nothing was deleted');
      return first.plan;
    }
    view.step('asking for admission');
    await admitted(first.admission, view);
    const { plan, host, repository } = await control.planDelete(operationId, asked.backupId, force, thisRun());
    // From here the sweep goes on whole backups at a time; a cancellation comes between two of them.
    if (plan.hide) await control.hideBackup(plan);
    for (const backup of plan.expunge) {
      view.step(`removing backup ${backup.id}`);
      try {
        await hostDeletes(host).deleteFiles(repository, plan.vm.uuid, backup);
      } catch (error) {
        await CancellationScope.nonCancellable(() => control.deleteStopped(backup.id, causeOf(error)));
        throw error;
      }
      await control.backupExpunged(backup.id, plan);
    }
    await control.chainAfterDelete(plan);
    view.ended('done');
    return plan;
  } catch (error) {
    view.ended('failed', causeOf(error));
    throw error;
  } finally {
    await CancellationScope.nonCancellable(() => control.releaseAdmission(operationId));
  }
}
