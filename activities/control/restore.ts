import type { RestoredVm } from '../../schemas/backup.ts';
import type { AdmissionRequest, VmRecord } from '../../schemas/catalog.ts';
import type { Delta } from '../../schemas/delta.ts';
import { restorableFrom } from '../../operations/restore-sources.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { RestoreVmRequest } from '../../schemas/requests.ts';
import { takesIdentity, type RestorePlan } from '../../schemas/restore-plan.ts';
import { requireQuickRestoreAllowed } from './consolidate.ts';
import type { ControlDependencies } from './dependencies.ts';
import { requireUndamaged, restoreAdmission } from './restorable.ts';

export const RESTORE_TIME_LIMIT_SECONDS = 43_200;

/** What `RestoreError` tells of a restore that could not be undone. */
export const leftBy = (restoreId: string, left: { step: string; cause: string }[]): string =>
  `restore ${restoreId} could not be undone (${left.map(({ step, cause }) => `${step}: ${cause}`).join('; ')})`;

const quickWishes = ({ rateMBps }: RestoreVmRequest): NonNullable<RestorePlan['quick']> => ({
  rateBytesPerSecond: rateMBps === undefined ? null : Math.max(1, Math.round(rateMBps * 1e6)),
});

export const createRestore = ({ catalog, heartbeatSeconds }: ControlDependencies) => {
  /** `beginRestore` keeps what was wrong with the VM before. */
  async function backToFormerState(vmUuid: string): Promise<void> {
    const error = (await catalog.vms.find(vmUuid))?.error ?? null;
    if (error === null) await catalog.vms.setState(vmUuid, 'Idle');
    else await catalog.vms.setState(vmUuid, error.startsWith('restore ') ? 'RestoreError' : 'BackupError', error);
  }

  return {
    /** The VM a backup is of. @throws BackupNotFound, BackupNotRestorable */
    async findBackup(backupId: string): Promise<{ vm: { uuid: string; name: string } }> {
      return { vm: (await restorableFrom(catalog, backupId)).record.backup.vm };
    },

    /** Where and what to restore, and what the restore must be admitted to. `present` is the VM, where it is now. */
    async resolveRestore(
      restoreId: string,
      asked: RestoreVmRequest,
      present: VmRecord | null,
      run: { workflowId: string; runId: string },
    ): Promise<{ plan: RestorePlan; admission: AdmissionRequest; heartbeatSeconds: number }> {
      const { record, repository, others } = await restorableFrom(catalog, asked.backupId, asked.repository);
      const isOnly = repository.name === record.backup.repository && others.length === 0;
      if (isOnly) await requireUndamaged(catalog, record, asked.disks);
      const { backup } = record;
      if (asked.quick === true) await requireQuickRestoreAllowed({ catalog }, record);
      requireSense(asked);
      const host = asked.host ?? present?.host ?? backup.host;
      if ((await catalog.hosts.find(host)) === undefined) {
        throw new HoldfastError('HostNotFound', `host: ${host} is not known; see: holdfast host ls`);
      }
      const identity = takesIdentity({ as: asked.as ?? null, keepUuid: asked.keepUuid });
      if (present !== null && identity) requireOnce(present, host, asked);
      return {
        plan: {
          restoreId,
          backupId: backup.id,
          vm: backup.vm,
          as: asked.as ?? null,
          keepUuid: asked.keepUuid ?? false,
          keepMacs: asked.keepMacs ?? false,
          linksDown: asked.linksDown ?? false,
          disks: asked.disks ?? null,
          host,
          isOtherHost: host !== backup.host || repository.name !== backup.repository,
          warnings: warningsOf(asked, present, host),
          lostHost: asked.formerHostLost === true ? ((await catalog.vms.find(backup.vm.uuid))?.host ?? null) : null,
          repository,
          ...(others.length === 0 ? {} : { others }),
          home: backup.repository,
          timeLimitSeconds: asked.timeLimitSeconds ?? RESTORE_TIME_LIMIT_SECONDS,
          start: asked.start ?? false,
          ...(asked.quick === true ? { quick: quickWishes(asked) } : {}),
        },
        admission: {
          ...restoreAdmission(restoreId, 'restoreVm', run, {
            backup,
            repository,
            host,
            vmUuid: identity ? backup.vm.uuid : null,
          }),
          ...(asked.quick === true ? { host: null, repository: null } : {}), // it copies nothing: no slot to wait for
        },
        heartbeatSeconds,
      };
    },

    /**
     * The VM is marked as being restored; a backup may be restored by several runs at once, so it keeps its state. Gives
     * the overlays of strategy `snapshot` on the VM's disks: a disk is swapped in on its own image.
     */
    async beginRestore(plan: RestorePlan): Promise<Delta[]> {
      if (!takesIdentity(plan)) return [];
      await catalog.vms.setState(plan.vm.uuid, 'Restoring', (await catalog.vms.find(plan.vm.uuid))?.error ?? null);
      return await catalog.deltas.list(plan.vm.uuid);
    },

    /** The disks are new, so no increment can build on what was there: the VM's chains are over. */
    async commitRestore(plan: RestorePlan, restored: RestoredVm): Promise<void> {
      if (takesIdentity(plan)) {
        if (plan.lostHost != null && plan.lostHost !== plan.host) {
          await catalog.vms.recordAnswer(plan.lostHost, plan.vm.uuid, [], new Date().toISOString());
        }
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
        message: `VM ${restored.vm.name} restored from backup ${plan.backupId} in ${plan.repository.name}, ${restored.disks.length} disks verified`,
      });
    },

    /** What a restore left that was ended by force is undone: its VM is as it was. */
    async restoreReclaimed(vmUuid: string): Promise<void> {
      if ((await catalog.vms.find(vmUuid))?.state === 'Restoring') await backToFormerState(vmUuid);
    },

    /** @param begun false when the restore had not yet got the VM: then its state is somebody else's */
    async recordRestoreFailure(
      plan: RestorePlan,
      type: string,
      message: string,
      leftOver: { step: string; cause: string }[],
      begun = true,
    ): Promise<void> {
      if (takesIdentity(plan) && begun) {
        if (leftOver.length > 0)
          await catalog.vms.setState(plan.vm.uuid, 'RestoreError', leftBy(plan.restoreId, leftOver));
        else await backToFormerState(plan.vm.uuid);
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

/** @throws HoldfastError InvalidRequest */
function requireSense(asked: RestoreVmRequest): void {
  const { as, keepUuid, keepMacs, linksDown, disks, formerHostLost, host, quick } = asked;
  const onlyNew = Object.entries({ keepUuid, keepMacs, linksDown }).filter(([, wanted]) => wanted === true);
  const [pointless] = onlyNew;
  if (as === undefined && pointless !== undefined) {
    throw new HoldfastError('InvalidRequest', `${pointless[0]}: goes with a new name (--as)`);
  }
  if (as !== undefined && disks !== undefined) {
    throw new HoldfastError(
      'InvalidRequest',
      'disks: single disks go back to the VM itself, or to another with --to-vm',
    );
  }
  if (quick === true && disks !== undefined) {
    throw new HoldfastError('InvalidRequest', 'quick: goes with the whole VM, not with single disks');
  }
  if (formerHostLost === true && host === undefined) {
    throw new HoldfastError('InvalidRequest', 'formerHostLost: name the host to restore to (--host)');
  }
}

/** A VM must not be on two hosts, nor run while its disks are replaced. */
function requireOnce(present: VmRecord, host: string, { as, dryRun }: RestoreVmRequest): void {
  if (as !== undefined) {
    throw new HoldfastError(
      'VmUuidTaken',
      `VM ${present.name} on host ${present.host} has the UUID ${present.uuid}; leave --keep-uuid away, or undefine it first`,
    );
  }
  if (present.host !== host) {
    throw new HoldfastError(
      'VmOnOtherHost',
      `VM ${present.name} is on host ${present.host} (${present.power}), not on ${host}: undefine it there first, or ` +
        'restore it under a new name with --as',
    );
  }
  if (present.power !== 'shutoff' && dryRun !== true) {
    throw new HoldfastError(
      'VmNotStopped',
      `VM ${present.name} is ${present.power}; stop it before it is restored in place`,
    );
  }
}

/** What the catalog knows of hosts other than the one that is restored to, which looks for itself. */
const warningsOf = ({ keepMacs }: RestoreVmRequest, present: VmRecord | null, host: string): string[] =>
  keepMacs === true && present !== null && present.host !== host && present.power !== 'shutoff'
    ? [`VM ${present.name} is ${present.power} on host ${present.host} with the same MAC addresses`]
    : [];
