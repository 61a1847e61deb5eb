import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupTarget } from '../../schemas/plan.ts';
import type { BackupRecord } from '../../catalog/contract.ts';
import type { ControlDependencies } from './dependencies.ts';

export const createFinishChain = ({ catalog }: ControlDependencies) => {
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
      const left = await catalog.backups.list({ vm: vmUuid, states: ['Error'] });
      if (left.length === 0) await catalog.vms.setState(vmUuid, 'Idle');
    },

    /** Ends chains by request. Gives the checkpoints that nothing builds on now. */
    async endChains(vmUuid: string, chains: string[]): Promise<{ stale: string[]; target: BackupTarget | null }> {
      for (const chain of chains) {
        await catalog.backups.endChain(chain, 'requested');
        const record = await catalog.backups.find(chain); // a chain bears the id of its full
        if (record !== undefined) await catalog.checkpoints.retire(vmUuid, record.backup.repository);
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
