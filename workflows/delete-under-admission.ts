import { CancellationScope, uuid4 } from '@temporalio/workflow';
import type { RepositoryRecord } from '../schemas/repository.ts';
import type { DeletePlan } from '../schemas/delete-plan.ts';
import { controlActivities, hostDeletes, hostProbes } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf } from './failure-cause.ts';
import type { OperationView } from './operation-view.ts';
import { hostWithRepository } from './repository-host.ts';
import { thisRun } from './this-run.ts';

/**
 * Deletes a backup when nothing else works on its VM and chain. Returns what was done; null when the backup is not
 * meant any more, which is asked once it is admitted, and when it had to be `free` at once and was not.
 */
export async function deleteUnderAdmission(
  order: {
    backupId: string;
    force: boolean;
    /** Of a copy. */
    repository?: string | undefined;
    free?: boolean;
    stillMeant?: () => Promise<boolean>;
  },
  view: OperationView,
): Promise<DeletePlan | null> {
  const { backupId, force, repository: copyIn, free = false, stillMeant } = order;
  const asked = copyIn === undefined ? [] : ([copyIn] as const);
  const control = controlActivities();
  const operationId = uuid4();
  try {
    const {
      plan: first,
      repository,
      admission,
    } = await control.planDelete(operationId, backupId, force, thisRun(), ...asked);
    view.about({ vm: first.vm, repository: repository.name, backupId });
    view.step('asking for admission');
    if (!free) await admitted(admission, view);
    else if (!(await control.requestAdmission(admission)).granted) return null;
    if (stillMeant !== undefined && !(await stillMeant())) return null;
    const { plan, hosts } = await control.planDelete(operationId, backupId, force, thisRun(), ...asked); // now nothing changes it
    if (plan.hide) await control.hideBackup(plan);
    else await sweep(plan, await hostWithRepository(hosts, repository), repository, view);
    return plan;
  } finally {
    await CancellationScope.nonCancellable(() => control.releaseAdmission(operationId));
  }
}

/** Leaf to root, up to the first that cannot be removed. A cancellation comes between two backups. */
export async function sweep(
  plan: DeletePlan,
  host: string,
  repository: RepositoryRecord,
  view: OperationView,
): Promise<void> {
  const control = controlActivities();
  for (const backup of plan.expunge) {
    view.step(`removing backup ${backup.id}`);
    await control.beginExpunge(backup.id, plan);
    await CancellationScope.nonCancellable(async () => {
      try {
        await hostDeletes(host).deleteFiles(repository, plan.vm.uuid, backup);
      } catch (error) {
        const isWhole = await hostProbes(host)
          .isPublished(repository, plan.vm.uuid, backup.id)
          .catch(() => false);
        await control.deleteStopped(plan, backup, isWhole, causeOf(error));
        throw error;
      }
      await control.backupExpunged(backup.id, plan);
    });
  }
}
