import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupTarget } from '../../schemas/plan.ts';
import type { ControlDependencies } from './dependencies.ts';
import { planDelete } from './plan-delete.ts';

export const createDeleteBackup = ({ catalog }: ControlDependencies) => ({
  /** What a delete would do now, on which host, and what it must be admitted to. @throws BackupNotFound, BackupNotDeletable */
  async planDelete(
    operationId: string,
    backupId: string,
    force: boolean,
    run: { workflowId: string; runId: string },
  ): Promise<{ plan: DeletePlan; host: string; repository: BackupTarget['repository']; admission: AdmissionRequest }> {
    const record = await catalog.backups.find(backupId);
    if (record === undefined || record.backup.state === 'Expunged') {
      throw new HoldfastError('BackupNotFound', `backup ${backupId} is not known; see: holdfast backup ls`);
    }
    const { vm, host, chainId, repository: name } = record.backup;
    const repository = await catalog.repositories.find(name);
    if (repository === undefined)
      throw new HoldfastError('RepositoryNotFound', `repository ${name} is not known any more`);
    const all = await catalog.backups.list({ vm: vm.uuid, repository: name, all: true });
    const records = await Promise.all(all.map(({ id }) => catalog.backups.find(id)));
    const plan = planDelete(
      records.filter((one) => one !== undefined),
      backupId,
      { force },
    );
    return {
      plan,
      host,
      repository,
      admission: {
        operationId,
        operation: 'deleteBackup',
        ...run,
        vmUuid: vm.uuid,
        chain: { id: chainId ?? backupId, mode: 'exclusive' },
        host,
        repository: name,
        tenant: 'default',
        priority: 4,
      },
    };
  },

  /** The backup is hidden; its files stay for those that are built on it. */
  async hideBackup({ backupId }: DeletePlan): Promise<void> {
    await catalog.backups.setState(backupId, 'Removed', ['BackedUp', 'Removed']);
  },

  /** The files of a backup are gone. Its checkpoint goes with the VM's next backup. */
  async backupExpunged(id: string, plan: DeletePlan): Promise<void> {
    await catalog.backups.setState(id, 'Expunged');
    const checkpoint = (await catalog.checkpoints.list(plan.vm.uuid)).find(({ backupId }) => backupId === id);
    if (checkpoint !== undefined) await catalog.checkpoints.put({ ...checkpoint, state: 'retired' });
  },

  /** Where the newest of an open chain went, the last living one before it is its end. */
  async chainAfterDelete(plan: DeletePlan): Promise<void> {
    if (plan.endsChain && plan.chainId !== null) await catalog.backups.endChain(plan.chainId, 'parent-missing');
  },

  /** A file that cannot be removed: its backup stays in sight, and the delete can be repeated. */
  async deleteStopped(id: string, message: string): Promise<void> {
    await catalog.backups.setState(id, 'Error');
    await catalog.events.record({ at: new Date().toISOString(), kind: 'delete-stopped', backupId: id, message });
  },
});
