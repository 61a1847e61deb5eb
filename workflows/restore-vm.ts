import { CancellationScope, isCancellation, patched, uuid4 } from '@temporalio/workflow';
import type { RestoredVm } from '../schemas/backup.ts';
import type { FailureType } from '../schemas/failures.ts';
import type { VmRecord } from '../schemas/catalog.ts';
import { restoreVmRequest, type RestoreVmRequest } from '../schemas/requests.ts';
import type { Delta } from '../schemas/delta.ts';
import type { PreparedRestore, RestorePlan, RestorePreview } from '../schemas/restore-plan.ts';
import { controlActivities, hostActivities, hostTransfers, hostUndo } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { allOrStop } from './all-or-stop.ts';
import { Compensations } from './compensations.ts';
import { copyRead } from './copy-read.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { fromHealthySource } from './healthy-source.ts';
import { locateVm } from './locate-vm.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { quickRestore } from './quick-restore.ts';
import { settleDeltas } from './settle-deltas.ts';
import { thisRun } from './this-run.ts';
import { withTimeLimit } from './time-limit.ts';

/** Brings a VM back from a backup: writes its disks beside, checks every byte, then swaps them in. */
export async function restoreVm(request: RestoreVmRequest): Promise<RestoredVm | RestorePreview> {
  const asked = parseRequest(restoreVmRequest, 'restoreVm', request);
  const control = controlActivities();
  const restoreId = uuid4();
  const view = new OperationView('restoreVm', asked.as ?? asked.backupId);
  const compensations = new Compensations();
  let plan: RestorePlan | undefined;
  let begun = false;
  try {
    view.step('looking for the backup');
    const backup = await control.findBackup(asked.backupId);
    const present = await whereItIs(backup.vm.uuid, asked, view);
    const found = await control.resolveRestore(restoreId, asked, present, thisRun());
    const chosen = await fromHealthySource(found.plan, view);
    plan = chosen;
    const { host, vm, repository } = chosen;
    view.about({
      vm: { uuid: vm.uuid, name: plan.as ?? vm.name },
      host,
      repository: repository.name,
      backupId: plan.backupId,
    });

    if (asked.dryRun === true) {
      view.step('looking what a restore would do');
      const preview = await hostActivities(host).previewRestore(chosen);
      view.ended('done', 'a dry run: nothing was changed');
      return preview;
    }

    view.step('asking for admission');
    await admitted(found.admission, view);
    begun = true;
    const overlays = (await control.beginRestore(plan)) as Delta[] | undefined; // undefined: as former versions answered
    return await withTimeLimit(plan.timeLimitSeconds, `restore of backup ${plan.backupId}`, async () => {
      if (present !== null && overlays !== undefined && overlays.length > 0) {
        await settleDeltas({ vm, host: present.host }, { keep: [], drop: overlays }, view);
      }
      if (chosen.quick !== undefined) return await quickRestore(chosen, view, compensations);
      return await restoreFromAny(chosen, found.heartbeatSeconds, view, compensations);
    });
  } catch (error) {
    view.step(isCancellation(error) ? 'cancelled, undoing' : 'failed, undoing');
    const left = (await compensations.run()).map((failed) => ({ step: failed.step, cause: causeOf(failed.error) }));
    await CancellationScope.nonCancellable(async () => {
      if (plan !== undefined) {
        await control.recordRestoreFailure(plan, failureTypeOf(error), causeOf(error), left, begun);
      }
      await control.releaseAdmission(restoreId);
    });
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

/** The VM where it is now; null when it is gone: then it is defined anew where it was. */
async function whereItIs(vmUuid: string, asked: RestoreVmRequest, view: OperationView): Promise<VmRecord | null> {
  // Who asks for a new VM needs no word from the original's host, which may be why it is restored.
  const needsNoWord = asked.formerHostLost === true || (asked.as !== undefined && asked.keepUuid !== true);
  const isPatient = !needsNoWord || !patched('restore-without-former-host');
  return await locateVm(vmUuid, view, isPatient ? 600 : 0).catch((error: unknown) => {
    const type = failureTypeOf(error);
    if (type === 'VmNotFound' || (!isPatient && type === 'HostUnreachable')) return null;
    throw error;
  });
}

/** What a restore finds only while it reads: then the next repository is tried, with nothing of the first try left. */
const DAMAGE = new Set<string>([
  'IntegrityMismatch',
  'BackupFileMissing',
  'BackupNotRestorable',
] satisfies FailureType[]);

async function restoreFromAny(
  plan: RestorePlan,
  heartbeatSeconds: number,
  view: OperationView,
  compensations: Compensations,
): Promise<RestoredVm> {
  const [next, ...others] = plan.others ?? [];
  try {
    return await restoreDisks(plan, heartbeatSeconds, view, compensations);
  } catch (error) {
    if (next === undefined || !DAMAGE.has(failureTypeOf(error))) throw error;
    view.note(`${causeOf(error)}; restoring from ${next.name}`);
    if ((await compensations.run()).length > 0) throw error;
    return await restoreFromAny({ ...plan, repository: next, others }, heartbeatSeconds, view, compensations);
  }
}

async function restoreDisks(
  plan: RestorePlan,
  heartbeatSeconds: number,
  view: OperationView,
  compensations: Compensations,
): Promise<RestoredVm> {
  const control = controlActivities();
  const host = hostActivities(plan.host);
  const transfer = hostTransfers(plan.host, { timeLimitSeconds: plan.timeLimitSeconds, heartbeatSeconds });
  view.step('checking the backup and the place to restore to');
  compensations.add('undo restore', () => hostUndo(plan.host).undoRestore(plan));
  const prepared: PreparedRestore = await host.prepareRestore(plan);
  for (const warning of prepared.warnings ?? []) view.note(warning);
  view.step(`restoring ${prepared.disks.map(({ target }) => target).join(', ')} beside`);
  await allOrStop(
    prepared.disks.map((disk) => () => transfer.restoreDisk.executeWithOptions({ summary: disk.target }, [plan, disk])),
  );
  return await CancellationScope.nonCancellable(async () => {
    view.step('swapping the disks in');
    const restored = await host.swapDisks(plan, prepared);
    await control.commitRestore(plan, restored);
    await control.releaseAdmission(plan.restoreId);
    await host.finishRestore(plan, prepared).catch((error: unknown) => {
      view.note(`the VM is restored, but not all is tidied up: ${causeOf(error)}`);
    });
    view.ended('done', `VM ${restored.vm.name} is restored from ${plan.repository.name}`);
    return { ...restored, ...copyRead(plan) };
  });
}
