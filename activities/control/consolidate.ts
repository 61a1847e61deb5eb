import type { BackupRecord } from '../../catalog/contract.ts';
import type { RestoredVm } from '../../schemas/backup.ts';
import type { AdmissionRequest, VmRecord } from '../../schemas/catalog.ts';
import { consolidationJob, type Consolidation } from '../../schemas/consolidation.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { ConsolidateDisksRequest } from '../../schemas/requests.ts';
import type { PreparedRestore, RestorePlan } from '../../schemas/restore-plan.ts';
import { releaseAdmissionOf } from './admission.ts';
import type { ControlDependencies } from './dependencies.ts';

interface Run {
  workflowId: string;
  runId: string;
}

/**
 * A VM that no offering protects may be restored quickly; else its offering says so. Whoever asks, and however.
 * @throws HoldfastError QuickRestoreNotAllowed
 */
export async function requireQuickRestoreAllowed(
  { catalog }: Pick<ControlDependencies, 'catalog'>,
  { backup, offering: formerOffering }: BackupRecord,
): Promise<void> {
  const vm: VmRecord | undefined = await catalog.vms.find(backup.vm.uuid);
  const name = vm === undefined ? formerOffering : vm.offering;
  const offering = name === null ? undefined : await catalog.offerings.find(name);
  if (offering === undefined || offering.quickRestore) return;
  throw new HoldfastError(
    'QuickRestoreNotAllowed',
    `offering ${offering.name} of VM ${backup.vm.name} does not allow quick restore; restore without --quick, or allow it: ` +
      `holdfast offering update ${offering.name} --quick-restore`,
  );
}

/**
 * A VM runs on a backup until its disks are consolidated.
 * @throws HoldfastError BackupNotDeletable
 */
export async function requireNotRunOn(
  { catalog }: Pick<ControlDependencies, 'catalog'>,
  backupIds: readonly string[],
  repository: string,
): Promise<void> {
  for (const one of await catalog.consolidations.list()) {
    if (one.repository !== repository) continue; // it runs on the files of another copy
    const used = one.prepared.disks.flatMap(({ chain }) => chain.map(({ backupId }) => backupId));
    const id = backupIds.find((candidate) => candidate === one.backupId || used.includes(candidate));
    if (id === undefined) continue;
    throw new HoldfastError(
      'BackupNotDeletable',
      `backup ${id}: VM ${one.vm.name} runs on it since its quick restore; wait for job ${consolidationJob(one)}`,
    );
  }
}

export const createConsolidate = (dependencies: ControlDependencies) => {
  const { catalog, runs } = dependencies;

  async function handOver({ id, vm }: Pick<Consolidation, 'id' | 'vm'>, operation: string, run: Run): Promise<void> {
    const granted = await catalog.admissions.handOver(id, { operation, ...run, vmUuid: vm.uuid });
    for (const other of granted ?? []) await runs.signalGranted(other.workflowId, other.runId);
  }

  async function theOne(vm: string): Promise<Consolidation> {
    const found = await catalog.consolidations.findByVm(vm);
    const [one] = found;
    if (one === undefined) {
      throw new HoldfastError('NothingToConsolidate', `VM ${vm} has no disks that depend on a backup`);
    }
    if (found.length > 1) {
      throw new HoldfastError(
        'VmAmbiguous',
        `vm: ${vm} is ${found.map((each) => each.vm.uuid).join(', ')}; give the UUID`,
      );
    }
    return one;
  }

  const tell = async (kind: string, { vm, backupId }: Consolidation, message: string): Promise<void> =>
    await catalog.events.record({ at: new Date().toISOString(), kind, vmUuid: vm.uuid, backupId, message });

  return {
    /**
     * Before the VM boots: from now on it is known to depend on the backup, and nobody else gets it. Its slots of host and
     * repository are given back, because nothing is copied for it.
     */
    async noteQuickRestore(plan: RestorePlan, prepared: PreparedRestore, run: Run): Promise<void> {
      const consolidation: Consolidation = {
        id: plan.restoreId,
        vm: prepared.vm,
        backupId: plan.backupId,
        host: plan.host,
        repository: plan.repository.name,
        state: 'starting',
        rateBytesPerSecond: plan.quick?.rateBytesPerSecond ?? null,
        plan,
        prepared,
        damage: null,
        verifiedAt: null,
        ...run,
        since: new Date().toISOString(),
      };
      await catalog.consolidations.create(consolidation);
      await handOver(consolidation, 'restoreVm', run);
    },

    /** The VM did not come to run on the backup. Repeatable. */
    async forgetQuickRestore(restoreId: string): Promise<void> {
      await catalog.consolidations.remove(restoreId);
    },

    /** The VM runs on the backup: its former chains are over, and it is `Restoring` until its disks are its own. */
    async commitQuickRestore(plan: RestorePlan, restored: RestoredVm): Promise<void> {
      const { vm } = restored;
      if (plan.as === null) {
        for (const repository of await catalog.repositories.list()) {
          const chain = await catalog.backups.lastChain(vm.uuid, repository.name);
          if (chain?.open === true) await catalog.backups.endChain(chain.id, 'disk-replaced');
        }
        for (const checkpoint of await catalog.checkpoints.list(vm.uuid)) {
          await catalog.checkpoints.remove(vm.uuid, checkpoint.backupId);
        }
      }
      const disks = restored.disks.map(({ target, path }) => ({ target, path, format: 'qcow2', sizeBytes: null }));
      await catalog.vms.recordSighting({ ...vm, host: plan.host, power: 'running', disks }, new Date().toISOString());
      await catalog.vms.setState(vm.uuid, 'Restoring');
      const known = await catalog.consolidations.find(plan.restoreId);
      if (known?.state !== 'starting') return; // an earlier attempt came this far
      await catalog.consolidations.update(plan.restoreId, { state: 'pulling' });
      await tell(
        'vm-quick-restored',
        known,
        `VM ${vm.name} runs on backup ${plan.backupId}; its disks are being pulled`,
      );
    },

    /** The run that pulls has begun, so what the restore was granted is its own. */
    async handOverToConsolidation(id: string, run: Run): Promise<void> {
      const one = await catalog.consolidations.find(id);
      if (one === undefined) return; // it is done already
      await catalog.consolidations.update(id, { run });
      await handOver(one, 'consolidateDisks', run);
    },

    /** What there is to consolidate on a VM, which is this run's from now on, and what it must be admitted to. */
    async beginConsolidation(
      { vm, rateMBps, undo }: ConsolidateDisksRequest,
      run: Run,
    ): Promise<{ consolidation: Consolidation; admission: AdmissionRequest; heartbeatSeconds: number }> {
      const one = await theOne(vm);
      if (one.workflowId !== run.workflowId && one.workflowId === consolidationJob(one)) {
        if (await runs.isRunning(one.workflowId, one.runId)) {
          throw new HoldfastError('DomainBusy', `VM ${vm}: job ${one.workflowId} is at it already`);
        }
      }
      const rateBytesPerSecond =
        rateMBps === undefined ? one.rateBytesPerSecond : rateMBps === 0 ? null : Math.round(rateMBps * 1e6);
      const state = one.state === 'starting' || undo === true ? one.state : 'pulling';
      await catalog.consolidations.update(one.id, { run, state, rateBytesPerSecond });
      await handOver(one, 'consolidateDisks', run);
      if (state === 'pulling' && one.damage === null) await catalog.vms.setState(one.vm.uuid, 'Restoring');
      const chainId = (await catalog.backups.find(one.backupId))?.backup.chainId ?? one.backupId;
      return {
        consolidation: { ...one, ...run, state, rateBytesPerSecond },
        admission: {
          operationId: one.id,
          operation: 'consolidateDisks',
          ...run,
          vmUuid: one.vm.uuid,
          chain: { id: chainId, mode: 'shared' },
          host: null,
          repository: null,
          tenant: 'default',
          priority: 0,
          restoresBackupId: one.backupId,
        },
        heartbeatSeconds: dependencies.heartbeatSeconds,
      };
    },

    async noteConsolidationRate(id: string, rateBytesPerSecond: number | null): Promise<void> {
      await catalog.consolidations.update(id, { rateBytesPerSecond });
    },

    /** Every stored byte that the VM is pulled from was right. */
    async noteConsolidationVerified(id: string): Promise<void> {
      await catalog.consolidations.update(id, { verifiedAt: new Date().toISOString() });
    },

    /** What the VM is pulled from is not what was stored. */
    async noteConsolidationDamage(id: string, damage: string): Promise<void> {
      const one = await catalog.consolidations.find(id);
      if (one === undefined || one.damage !== null) return;
      await catalog.consolidations.update(id, { damage });
      const message = `VM ${one.vm.name} was restored from a backup that is damaged: ${damage}`;
      await catalog.vms.setState(one.vm.uuid, 'RestoreError', message);
      await tell('restore-damaged', one, message);
    },

    /** The disks depend on nothing any more, or the VM is gone or never came to run. Repeatable. */
    async commitConsolidation(id: string, outcome: 'consolidated' | 'gone' | 'damaged' | 'undone'): Promise<void> {
      const one = await catalog.consolidations.find(id);
      if (one !== undefined) {
        const { name, uuid } = one.vm;
        if (outcome !== 'damaged') await catalog.vms.setState(uuid, 'Idle');
        await catalog.consolidations.remove(id);
        if (outcome === 'consolidated') {
          await tell(
            'vm-consolidated',
            one,
            `VM ${name} depends on backup ${one.backupId} no longer; all bytes verified`,
          );
        } else if (outcome === 'gone') {
          await tell('consolidation-ended', one, `VM ${name} is on no host any more; its files were left as they are`);
        }
      }
      await releaseAdmissionOf(dependencies, id);
    },

    /** The pull does not go on by itself: a person stopped it, or the backup cannot be pulled to its end. */
    async stopConsolidation(id: string, state: 'stopped' | 'damaged', reason: string): Promise<void> {
      const one = await catalog.consolidations.find(id);
      if (one === undefined) return;
      await catalog.consolidations.update(id, { state });
      if (state === 'stopped') await catalog.vms.setState(one.vm.uuid, 'Restoring', reason);
      await tell('consolidation-stopped', one, `VM ${one.vm.name} still depends on backup ${one.backupId}: ${reason}`);
      if (state === 'damaged') await releaseAdmissionOf(dependencies, id);
    },
  };
};
