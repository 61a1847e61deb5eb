import type { BackupRecord } from '../../catalog/contract.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupTarget } from '../../schemas/plan.ts';
import type { BackupState } from '../../schemas/states.ts';
import { requireNotRunOn } from './consolidate.ts';
import { copiesAsBackups } from './copies-as-backups.ts';
import type { ControlDependencies } from './dependencies.ts';
import { locksOf, planDelete } from './plan-delete.ts';
import { repositoryHosts } from './repository-hosts.ts';

/** Everything but `Expunged`: what is gone is no part of a chain any more. */
export const PRESENT: BackupState[] = ['Queued', 'BackingUp', 'BackedUp', 'Restoring', 'Removed', 'Failed', 'Error'];

type HowToDelete = Pick<Parameters<typeof planDelete>[2], 'force' | 'locked'>;

export const createDeleteBackup = ({ catalog }: ControlDependencies) => {
  async function planOwnDelete(
    { backup: { id, vm, repository } }: BackupRecord,
    how: HowToDelete,
  ): Promise<DeletePlan> {
    const present = await catalog.backups.records({ vm: vm.uuid, repository, states: PRESENT });
    const chain = await catalog.backups.lastChain(vm.uuid, repository);
    return planDelete(present, id, { ...how, openChain: chain?.open === true ? chain.id : null });
  }

  /** The same rules, for the copies in one repository. */
  async function planCopyDelete({ backup }: BackupRecord, copiesIn: string, how: HowToDelete): Promise<DeletePlan> {
    const present = await copiesAsBackups(catalog, backup.vm.uuid, copiesIn);
    if (!present.some((copy) => copy.backup.id === backup.id)) {
      throw new HoldfastError('BackupNotFound', `backup ${backup.id} has no copy in ${copiesIn}`);
    }
    return { ...planDelete(present, backup.id, { ...how, openChain: null }), copiesIn };
  }

  return {
    /**
     * What a delete would do now, the hosts that may do it, and what it must be admitted to.
     * @throws BackupNotFound, BackupNotDeletable, RepositoryNotFound
     */
    async planDelete(
      operationId: string,
      backupId: string,
      force: boolean,
      run: { workflowId: string; runId: string },
      copyIn?: string,
    ): Promise<{
      plan: DeletePlan;
      hosts: string[];
      repository: BackupTarget['repository'];
      admission: AdmissionRequest;
    }> {
      const record = await catalog.backups.find(backupId);
      if (record === undefined) {
        throw new HoldfastError('BackupNotFound', `backup ${backupId} is not known; see: holdfast backup ls`);
      }
      const isCopy = copyIn !== undefined && copyIn !== record.backup.repository;
      if (!isCopy && record.backup.state === 'Expunged') {
        const copies = await catalog.copies.list({ backupIds: [backupId], states: ['Copied'] });
        const left = copies.map(({ repository }) => repository).join(', ');
        const hint = left === '' ? '' : `; copies are in ${left}: delete them with --copies, or one with --repo`;
        throw new HoldfastError('BackupNotFound', `backup ${backupId} is deleted already${hint}`);
      }
      const { vm, host, chainId } = record.backup;
      const name = isCopy ? copyIn : record.backup.repository;
      const repository = await catalog.repositories.find(name);
      if (repository === undefined)
        throw new HoldfastError('RepositoryNotFound', `repository ${name} is not known any more`);
      const locked = locksOf(repository, new Date());
      const plan = isCopy
        ? await planCopyDelete(record, name, { force, locked })
        : await planOwnDelete(record, { force, locked });
      await requireNotRunOn({ catalog }, [backupId, ...plan.expunge.map(({ id }) => id)], name);
      const vmHost = (await catalog.vms.find(vm.uuid))?.host;
      return {
        plan,
        hosts: await repositoryHosts(catalog, vmHost === undefined ? [host] : [host, vmHost]),
        repository,
        admission: {
          operationId,
          operation: 'deleteBackup',
          ...run,
          vmUuid: vm.uuid,
          chain: { id: chainId ?? backupId, mode: 'exclusive' },
          host: null,
          repository: name,
          tenant: 'default',
          priority: 4,
        },
      };
    },

    /** The backup is hidden; its files stay for those that are built on it. */
    async hideBackup({ backupId, vm, copiesIn }: DeletePlan): Promise<void> {
      if (copiesIn !== undefined) {
        await catalog.copies.setState(backupId, copiesIn, 'Removed', ['Copied', 'Removed']);
        return;
      }
      await catalog.backups.setState(backupId, 'Removed', ['BackedUp', 'Error', 'Removed']);
      await catalog.checkpoints.retireOf(vm.uuid, [backupId]); // nothing new is built on what is hidden
    },

    /**
     * Before the first of its files goes the backup is out of sight, and nothing is built on it any more: whatever ends the
     * delete in the middle, what is listed can be restored. Where the newest of an open chain goes, the last living one
     * before it is its end.
     */
    async beginExpunge(id: string, { chainId, endsChain, copiesIn }: DeletePlan): Promise<void> {
      if (copiesIn !== undefined) {
        await catalog.copies.setState(id, copiesIn, 'Removed');
        return;
      }
      await catalog.backups.setState(id, 'Removed');
      if (endsChain && chainId !== null) await catalog.backups.endChain(chainId, 'parent-missing');
    },

    /** The files of a backup are gone. Its checkpoint goes with the VM's next backup. */
    async backupExpunged(id: string, plan: DeletePlan): Promise<void> {
      if (plan.copiesIn !== undefined) {
        await catalog.copies.setState(id, plan.copiesIn, 'Expunged');
        return;
      }
      await catalog.backups.setState(id, 'Expunged');
      const checkpoint = (await catalog.checkpoints.list(plan.vm.uuid)).find(({ backupId }) => backupId === id);
      if (checkpoint !== undefined) await catalog.checkpoints.put({ ...checkpoint, state: 'retired' });
    },

    /** A file that cannot be removed: its backup stays in sight, as `Error` unless it is whole, and the delete can be repeated. */
    async deleteStopped(
      plan: DeletePlan,
      { id, state }: DeletePlan['expunge'][number],
      isWhole: boolean,
      cause: string,
    ): Promise<void> {
      const { copiesIn } = plan;
      if (copiesIn === undefined) await catalog.backups.setState(id, isWhole ? state : 'Error', ['Removed', 'Error']);
      else
        await catalog.copies.setState(id, copiesIn, isWhole && state === 'BackedUp' ? 'Copied' : 'Removed', [
          'Removed',
        ]);
      const what = copiesIn === undefined ? 'backup' : `copy in ${copiesIn} of backup`;
      await catalog.events.record({
        at: new Date().toISOString(),
        kind: 'delete-stopped',
        vmUuid: plan.vm.uuid,
        backupId: id,
        message: `${what} ${id} of VM ${plan.vm.name} could not be deleted ${isWhole ? 'and is as it was' : 'whole; delete it again'}: ${cause}`,
      });
    },
  };
};
