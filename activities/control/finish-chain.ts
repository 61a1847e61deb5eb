import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupPlan, BackupTarget } from '../../schemas/plan.ts';
import type { BackupRecord } from '../../catalog/contract.ts';
import type { CompletedBackup } from '../../schemas/catalog.ts';
import { createCommitBackup } from './commit-backup.ts';
import type { ControlDependencies } from './dependencies.ts';

export const createFinishChain = (dependencies: ControlDependencies) => {
  const { catalog } = dependencies;
  const commits = createCommitBackup(dependencies);

  /** Enough of a backup's target for its undo. */
  async function targetOf({ backup, strategy }: BackupRecord): Promise<BackupTarget> {
    const repository = await catalog.repositories.find(backup.repository);
    if (repository === undefined) {
      throw new HoldfastError('RepositoryNotFound', `repository ${backup.repository} is not known any more`);
    }
    return {
      vm: backup.vm,
      host: backup.host,
      repository,
      offering: null,
      quiesce: 'prefer', // whether the guest was frozen is not known any more: make sure
      compression: 'none',
      includeDisks: [],
      excludeDisks: [],
      strategy,
      keepCheckpoints: 1,
      chainSize: 0,
      timeLimitSeconds: 43_200,
      tenant: 'default',
      priority: 3,
    };
  }

  return {
    /** What there is to finish on a VM: backups whose undo failed, open chains, checkpoints that should be gone. */
    async chainState(vmUuid: string): Promise<{
      repairs: { backupId: string; target: BackupTarget }[];
      openChains: string[];
      leftovers: string[];
      /** Strategy `snapshot` has, or may have, overlays on its disks. */
      overlays?: boolean;
    }> {
      const repairs: { backupId: string; target: BackupTarget }[] = [];
      for (const { id } of await catalog.backups.list({ vm: vmUuid, states: ['Error'] })) {
        const record = await catalog.backups.find(id);
        if (record?.backup.instant === null) repairs.push({ backupId: id, target: await targetOf(record) });
      }
      const openChains: string[] = [];
      for (const { name } of await catalog.repositories.list()) {
        const chain = await catalog.backups.lastChain(vmUuid, name);
        if (chain?.open === true) openChains.push(chain.id);
      }
      return { repairs, openChains, leftovers: await retired(vmUuid), overlays: await mayHaveOverlays(vmUuid) };
    },

    /** The undo of a failed backup succeeded at last: nothing of it is on the VM any more. */
    async backupRepaired(vmUuid: string, backupId: string): Promise<void> {
      await catalog.backups.setState(backupId, 'Failed', ['Error']);
      await catalog.checkpoints.remove(vmUuid, backupId);
      // One with an instant is a delete that stopped: nothing of it is on the VM.
      const left = await catalog.backups.list({ vm: vmUuid, states: ['Error'] });
      if (left.every(({ instant }) => instant !== null)) await catalog.vms.setState(vmUuid, 'Idle');
    },

    /** The backup that seemed to have failed was published: it can be restored, so it is listed. Repeatable. */
    async relistBackup(plan: BackupPlan, completed: CompletedBackup): Promise<void> {
      const { backupId, target } = plan;
      await catalog.backups.setState(backupId, 'BackingUp', ['Error', 'Failed']);
      await commits.commitBackup(plan, completed);
      const current = await catalog.backups.current(target.vm.uuid, target.repository.name);
      const own = (await catalog.checkpoints.list(target.vm.uuid)).find((one) => one.backupId === backupId);
      if (own !== undefined && current?.backup.id !== backupId) {
        await catalog.checkpoints.put({ ...own, state: 'retired' }); // nothing will be built on it
      }
    },

    /** Ends chains by request. Gives the checkpoints that nothing builds on now. */
    async endChains(vmUuid: string, chains: string[]): Promise<{ stale: string[]; target: BackupTarget | null }> {
      for (const chain of chains) {
        await catalog.backups.endChain(chain, 'requested');
        // Any of its backups: the full whose id it bears may have been merged away.
        const member = (await catalog.backups.list({ vm: vmUuid, all: true })).find(({ chainId }) => chainId === chain);
        if (member !== undefined) await catalog.checkpoints.retire(vmUuid, member.repository);
      }
      const stale = await retired(vmUuid);
      const owner = stale[0] === undefined ? undefined : await catalog.backups.find(stale[0]);
      return { target: owner === undefined ? null : await targetOf(owner), stale };
    },
  };

  async function mayHaveOverlays(vmUuid: string): Promise<boolean> {
    return (await catalog.deltas.list(vmUuid)).length > 0;
  }

  async function retired(vmUuid: string): Promise<string[]> {
    const known = await catalog.checkpoints.list(vmUuid);
    return known.filter(({ state }) => state === 'retired').map(({ backupId }) => backupId);
  }
};
