import type { BackupRecord } from '../../catalog/contract.ts';
import type { Backup } from '../../schemas/backup.ts';
import { offering as offeringSchema, type AdmissionRequest } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { CompressBackupRequest } from '../../schemas/requests.ts';
import type { RewritePlan, SwappedBackup } from '../../schemas/rewrite-plan.ts';
import type { BackupState, CompressionState } from '../../schemas/states.ts';
import type { ControlDependencies } from './dependencies.ts';
import { damageText } from '../../operations/damage-text.ts';
import { repositoryHosts } from './repository-hosts.ts';
import { admissionToWork, offeringOf, recordOf, repositoryOf } from './work-on-backup.ts';

const DEFAULT_TIME_LIMIT_SECONDS = offeringSchema.parse({ name: 'none' }).compressionTimeLimitSeconds;
/** Has files that are worth rewriting; a `Removed` one is kept for its descendants. */
const HAS_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed'];

export interface PlannedRewrite {
  plan: RewritePlan;
  /** While the files are written beside; `exclusiveAdmission` while they are swapped. */
  admission: AdmissionRequest;
  /** Hosts to try, in this order. */
  hosts: string[];
  heartbeatSeconds: number;
}

export const createRewrite = ({ catalog, runs, heartbeatSeconds }: ControlDependencies) => {
  function requireFiles({ backup: { id, vm, state }, damage }: BackupRecord): void {
    if (HAS_FILES.includes(state) && damage === null) return;
    const why = HAS_FILES.includes(state)
      ? `damaged: ${damageText(damage ?? '')}`
      : `${state}: there is nothing to compress`;
    throw new HoldfastError('BackupNotCompressible', `backup ${id} of VM ${vm.name} is ${why}`);
  }

  return {
    /**
     * What compressing a backup takes; `done` when there is nothing to do.
     * @throws BackupNotFound, BackupNotCompressible, RepositoryNotFound
     */
    async planCompression(
      operationId: string,
      asked: CompressBackupRequest,
      run: { workflowId: string; runId: string },
    ): Promise<PlannedRewrite & { done: Backup | null; storedBytes: number }> {
      const record = await recordOf(catalog, asked.backupId);
      const { backup } = record;
      requireFiles(record);
      const repository = await repositoryOf(catalog, record);
      const offering = await offeringOf(catalog, record);
      return {
        plan: {
          operationId,
          operation: 'compressBackup',
          backupId: backup.id,
          vm: backup.vm,
          repository,
          compression: 'zstd',
          timeLimitSeconds:
            asked.timeLimitSeconds ?? offering?.compressionTimeLimitSeconds ?? DEFAULT_TIME_LIMIT_SECONDS,
        },
        admission: admissionToWork(record, offering, { operationId, operation: 'compressBackup', ...run }),
        hosts: await repositoryHosts(catalog, [backup.host]),
        heartbeatSeconds,
        done: backup.compression === 'Compressed' ? backup : null,
        storedBytes: backup.storedBytes,
      };
    },

    /** Nobody else writes the backup's files anew from now on. @throws BackupNotCompressible */
    async beginRewrite(
      { operationId: id, operation, backupId, vm }: RewritePlan,
      run: { workflowId: string; runId: string },
    ): Promise<void> {
      requireFiles(await recordOf(catalog, backupId));
      let holder = await catalog.rewrites.begin(backupId, { id, operation, ...run });
      if (holder !== null && !(await runs.isRunning(holder.workflowId, holder.runId))) {
        await catalog.rewrites.end(backupId, holder.id, null);
        holder = await catalog.rewrites.begin(backupId, { id, operation, ...run });
      }
      if (holder === null) return;
      throw new HoldfastError(
        'BackupNotCompressible',
        `backup ${backupId} of VM ${vm.name} is being rewritten by ${holder.workflowId}; try again when that is over`,
      );
    },

    /** The short part begins: from here on the files change. @throws BackupNotCompressible */
    async finalizeRewrite({ backupId, operationId }: RewritePlan): Promise<void> {
      requireFiles(await recordOf(catalog, backupId));
      if (await catalog.rewrites.finalize(backupId, operationId)) return;
      throw new HoldfastError('BackupNotCompressible', `backup ${backupId} was taken over by another run`);
    },

    /** Takes over what the manifest says of the backup's files. Repeatable. */
    async commitRewrite(plan: RewritePlan, swapped: SwappedBackup, state: CompressionState | null): Promise<Backup> {
      const before = (await recordOf(catalog, plan.backupId)).backup;
      await catalog.rewrites.complete(plan.backupId, plan.operationId, {
        type: swapped.type,
        parentId: swapped.parentId,
        codec: swapped.compression,
        compression: state,
        disks: swapped.disks,
      });
      const { backup } = await recordOf(catalog, plan.backupId);
      const what = plan.operation === 'compressBackup' ? 'compressed' : 'merged into a full';
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: plan.operation === 'compressBackup' ? 'backup-compressed' : 'backups-merged',
        vmUuid: plan.vm.uuid,
        backupId: plan.backupId,
        message: `backup ${plan.backupId} of VM ${plan.vm.name} ${what}: ${before.storedBytes} bytes before, ${backup.storedBytes} after`,
      });
      return backup;
    },

    /** The files stay as they were: they do not get smaller. The backup counts as compressed, so that nobody tries again. */
    async keepFiles({ backupId, operationId }: RewritePlan): Promise<Backup> {
      const { backup, disks } = await recordOf(catalog, backupId);
      await catalog.rewrites.complete(backupId, operationId, {
        type: backup.type,
        parentId: backup.parentId,
        codec: 'none',
        compression: 'Compressed',
        disks,
      });
      return (await recordOf(catalog, backupId)).backup;
    },

    /** The files stay as they were, because of a failure unless it is null. Repeatable. */
    async endRewrite(plan: RewritePlan, failure: { type: string; message: string } | null): Promise<void> {
      const said = failure === null ? null : `${failure.type}: ${failure.message}`;
      await catalog.rewrites.end(plan.backupId, plan.operationId, said);
      if (said === null) return;
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: plan.operation === 'compressBackup' ? 'compression-failed' : 'merge-failed',
        vmUuid: plan.vm.uuid,
        backupId: plan.backupId,
        message: `backup ${plan.backupId} of VM ${plan.vm.name} stays as it was: ${said}`,
      });
    },

    /** A run that was ended by force, and what it left is undone. Repeatable. */
    async rewriteEnded(backupId: string, operationId: string): Promise<void> {
      await catalog.rewrites.end(backupId, operationId, 'Terminated: its run was ended by force');
    },
  };
};
