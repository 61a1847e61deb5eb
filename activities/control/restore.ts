import type { BackupRecord } from '../../catalog/contract.ts';
import type { RestoredVm } from '../../schemas/backup.ts';
import type { AdmissionRequest, VmRecord } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { RestoreVmRequest } from '../../schemas/requests.ts';
import type { RestorePlan } from '../../schemas/restore-plan.ts';
import type { ControlDependencies } from './dependencies.ts';

const RESTORE_TIME_LIMIT_SECONDS = 43_200;

export const createRestore = ({ catalog, heartbeatSeconds }: ControlDependencies) => {
  async function restorable(backupId: string): Promise<BackupRecord> {
    const found = await catalog.backups.find(backupId);
    if (found === undefined)
      throw new HoldfastError('BackupNotFound', `backup ${backupId} is not known; see: holdfast backup ls`);
    const { state } = found.backup;
    if (state === 'BackedUp' || state === 'Restoring' || state === 'Removed') return found;
    throw new HoldfastError('BackupNotRestorable', `backup ${backupId} is ${state}: there is nothing to restore from`);
  }

  return {
    /** The VM a backup is of. @throws BackupNotFound, BackupNotRestorable */
    async findBackup(backupId: string): Promise<{ vm: { uuid: string; name: string } }> {
      return { vm: (await restorable(backupId)).backup.vm };
    },

    /** Where and what to restore, and what the restore must be admitted to. `present` is the VM, where it is now. */
    async resolveRestore(
      restoreId: string,
      asked: RestoreVmRequest,
      present: VmRecord | null,
      run: { workflowId: string; runId: string },
    ): Promise<{ plan: RestorePlan; admission: AdmissionRequest; heartbeatSeconds: number }> {
      const { backup } = await restorable(asked.backupId);
      const repository = await catalog.repositories.find(backup.repository);
      if (repository === undefined) {
        throw new HoldfastError(
          'RepositoryNotFound',
          `repository ${backup.repository} of backup ${backup.id} is not known any more`,
        );
      }
      const inPlace = asked.as === undefined;
      const host = asked.host ?? present?.host ?? backup.host;
      if ((await catalog.hosts.find(host)) === undefined) {
        throw new HoldfastError('HostNotFound', `host: ${host} is not known; see: holdfast host ls`);
      }
      if (inPlace && present !== null) {
        if (present.host !== host) {
          throw new HoldfastError(
            'DiskMismatch',
            `VM ${present.name} is on host ${present.host}, not on ${host}; use --as`,
          );
        }
        if (present.power !== 'shutoff') {
          throw new HoldfastError(
            'VmNotStopped',
            `VM ${present.name} is ${present.power}; stop it before it is restored in place`,
          );
        }
      }
      return {
        plan: {
          restoreId,
          backupId: backup.id,
          vm: backup.vm,
          as: asked.as ?? null,
          host,
          repository,
          timeLimitSeconds: asked.timeLimitSeconds ?? RESTORE_TIME_LIMIT_SECONDS,
          start: asked.start ?? false,
        },
        admission: {
          operationId: restoreId,
          operation: 'restoreVm',
          ...run,
          vmUuid: inPlace ? backup.vm.uuid : null,
          chain: { id: backup.chainId ?? backup.id, mode: 'shared' },
          host,
          repository: repository.name,
          tenant: 'default',
          priority: 0,
        },
        heartbeatSeconds,
      };
    },

    /** The VM is marked as being restored; a backup may be restored by several runs at once, so it keeps its state. */
    async beginRestore(plan: RestorePlan): Promise<void> {
      if (plan.as === null)
        await catalog.vms.setState(plan.vm.uuid, 'Restoring', (await catalog.vms.find(plan.vm.uuid))?.error ?? null);
    },

    /** The disks are new, so no increment can build on what was there: the VM's chains are over. */
    async commitRestore(plan: RestorePlan, restored: RestoredVm): Promise<void> {
      if (plan.as === null) {
        for (const repository of await catalog.repositories.list()) {
          const chain = await catalog.backups.lastChain(plan.vm.uuid, repository.name);
          if (chain?.open === true) await catalog.backups.endChain(chain.id, 'disk-replaced');
        }
        for (const checkpoint of await catalog.checkpoints.list(plan.vm.uuid)) {
          await catalog.checkpoints.remove(plan.vm.uuid, checkpoint.backupId);
        }
        await catalog.vms.setState(plan.vm.uuid, 'Idle');
      }
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: 'vm-restored',
        vmUuid: restored.vm.uuid,
        backupId: plan.backupId,
        message: `VM ${restored.vm.name} restored from backup ${plan.backupId}, ${restored.disks.length} disks verified`,
      });
    },

    async recordRestoreFailure(
      plan: RestorePlan,
      type: string,
      message: string,
      leftOver: { step: string; cause: string }[],
    ): Promise<void> {
      if (plan.as === null) {
        const left = leftOver.map(({ step, cause }) => `${step}: ${cause}`).join('; ');
        if (left === '') await catalog.vms.setState(plan.vm.uuid, 'Idle');
        else
          await catalog.vms.setState(
            plan.vm.uuid,
            'RestoreError',
            `restore ${plan.restoreId} could not be undone (${left})`,
          );
      }
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: 'restore-failed',
        vmUuid: plan.vm.uuid,
        backupId: plan.backupId,
        message: `${type}: ${message}`,
      });
    },
  };
};
