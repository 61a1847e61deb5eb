import type { RestoredVm } from '../../schemas/backup.ts';
import type { AdmissionRequest, VmRecord } from '../../schemas/catalog.ts';
import { restorableFrom } from '../../operations/restore-sources.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { RestoreDiskRequest } from '../../schemas/requests.ts';
import type { DiskRestorePlan } from '../../schemas/restore-plan.ts';
import type { ControlDependencies } from './dependencies.ts';
import { requireUndamaged, restoreAdmission } from './restorable.ts';
import { leftBy, RESTORE_TIME_LIMIT_SECONDS } from './restore.ts';

export const createDiskRestore = ({ catalog, heartbeatSeconds }: ControlDependencies) => ({
  /** What to restore to which VM, and what the restore must be admitted to. `toVm` is the VM, where it is now. */
  async resolveDiskRestore(
    restoreId: string,
    asked: RestoreDiskRequest,
    toVm: VmRecord,
    run: { workflowId: string; runId: string },
  ): Promise<{ plan: DiskRestorePlan; admission: AdmissionRequest; heartbeatSeconds: number }> {
    const { record, repository, others } = await restorableFrom(catalog, asked.backupId, asked.repository);
    const { backup, disks } = record;
    const isOnly = repository.name === backup.repository && others.length === 0;
    if (isOnly) await requireUndamaged(catalog, record, [asked.disk]);
    if (!disks.some(({ target }) => target === asked.disk)) {
      const there = disks.map(({ target }) => target).join(', ');
      throw new HoldfastError('DiskMismatch', `backup ${backup.id} has no disk ${asked.disk}; it has ${there}`);
    }
    return {
      plan: {
        restoreId,
        backupId: backup.id,
        vm: backup.vm,
        disk: asked.disk,
        toVm: { uuid: toVm.uuid, name: toVm.name },
        target: asked.target ?? null,
        path: asked.path ?? null,
        host: toVm.host,
        isOtherHost: toVm.host !== backup.host || repository.name !== backup.repository,
        repository,
        ...(others.length === 0 ? {} : { others }),
        home: backup.repository,
        timeLimitSeconds: asked.timeLimitSeconds ?? RESTORE_TIME_LIMIT_SECONDS,
      },
      admission: restoreAdmission(restoreId, 'restoreDisk', run, {
        backup,
        repository,
        host: toVm.host,
        vmUuid: toVm.uuid,
      }),
      heartbeatSeconds,
    };
  },

  async commitDiskRestore(plan: DiskRestorePlan, restored: RestoredVm): Promise<void> {
    const [disk] = restored.disks;
    await catalog.events.record({
      at: new Date().toISOString(),
      kind: 'disk-restored',
      vmUuid: plan.toVm.uuid,
      backupId: plan.backupId,
      message: `disk ${plan.disk} of backup ${plan.backupId} is disk ${disk?.target ?? ''} of VM ${plan.toVm.name}, verified`,
    });
  },

  /** The VM keeps the state it had, unless something of the restore may be left on it. */
  async recordDiskRestoreFailure(
    plan: DiskRestorePlan,
    type: string,
    message: string,
    left: { step: string; cause: string }[],
  ): Promise<void> {
    if (left.length > 0) await catalog.vms.setState(plan.toVm.uuid, 'RestoreError', leftBy(plan.restoreId, left));
    await catalog.events.record({
      at: new Date().toISOString(),
      kind: 'restore-failed',
      vmUuid: plan.toVm.uuid,
      backupId: plan.backupId,
      message: `${type}: ${message}`,
    });
  },
});
