import { CancellationScope, isCancellation, uuid4 } from '@temporalio/workflow';
import type { RestoredVm } from '../schemas/backup.ts';
import { restoreDiskRequest, type RestoreDiskRequest } from '../schemas/requests.ts';
import type { DiskRestorePlan, PreparedDisk } from '../schemas/restore-plan.ts';
import { controlActivities, hostActivities, hostTransfers, hostUndo } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { Compensations } from './compensations.ts';
import { copyRead } from './copy-read.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { fromHealthySource } from './healthy-source.ts';
import { locateVm } from './locate-vm.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';
import { withTimeLimit } from './time-limit.ts';

/** Gives a VM, which may run, one disk of a backup as a further disk: writes it, checks every byte, then attaches it. */
export async function restoreDisk(request: RestoreDiskRequest): Promise<RestoredVm | PreparedDisk> {
  const asked = parseRequest(restoreDiskRequest, 'restoreDisk', request);
  const control = controlActivities();
  const restoreId = uuid4();
  const view = new OperationView('restoreDisk', asked.toVm);
  const compensations = new Compensations();
  let plan: DiskRestorePlan | undefined;
  try {
    view.step('looking for the VM');
    await control.findBackup(asked.backupId);
    const toVm = await locateVm(asked.toVm, view, 600);
    const found = await control.resolveDiskRestore(restoreId, asked, toVm, thisRun());
    const chosen = await fromHealthySource(found.plan, view);
    plan = chosen;
    const { host, repository, backupId } = plan;
    view.about({ vm: plan.toVm, host, repository: repository.name, backupId });
    if (asked.dryRun === true) {
      const preview = await hostActivities(host).previewDisk(plan);
      view.ended('done', 'a dry run: nothing was written');
      return preview;
    }

    view.step('asking for admission');
    await admitted(found.admission, view);
    return await withTimeLimit(
      plan.timeLimitSeconds,
      `restore of disk ${plan.disk} of backup ${backupId}`,
      async () => {
        return await writeAndAttach(chosen, found.heartbeatSeconds, view, compensations);
      },
    );
  } catch (error) {
    view.step(isCancellation(error) ? 'cancelled, undoing' : 'failed, undoing');
    const left = (await compensations.run()).map((failed) => ({ step: failed.step, cause: causeOf(failed.error) }));
    await CancellationScope.nonCancellable(async () => {
      if (plan !== undefined) await control.recordDiskRestoreFailure(plan, failureTypeOf(error), causeOf(error), left);
      await control.releaseAdmission(restoreId);
    });
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

async function writeAndAttach(
  plan: DiskRestorePlan,
  heartbeatSeconds: number,
  view: OperationView,
  compensations: Compensations,
): Promise<RestoredVm> {
  const control = controlActivities();
  const host = hostActivities(plan.host);
  const transfer = hostTransfers(plan.host, { timeLimitSeconds: plan.timeLimitSeconds, heartbeatSeconds });
  view.step('checking the backup, and the VM for a place');
  compensations.add('undo restore', () => hostUndo(plan.host).undoDisk(plan));
  const prepared = await host.prepareDisk(plan);
  view.step(`restoring ${plan.disk} to ${prepared.disk.path}`);
  await transfer.restoreDisk.executeWithOptions({ summary: plan.disk }, [plan, prepared.disk]);
  return await CancellationScope.nonCancellable(async () => {
    view.step(`attaching it as ${prepared.target}`);
    const restored = await host.attachDisk(plan, prepared);
    await control.commitDiskRestore(plan, restored);
    await control.releaseAdmission(plan.restoreId);
    await host.finishDisk(plan).catch((error: unknown) => {
      view.note(`the disk is attached, but not all is tidied up: ${causeOf(error)}`);
    });
    view.ended('done', `disk ${prepared.target} of VM ${plan.toVm.name} is restored`);
    return { ...restored, ...copyRead(plan) };
  });
}
