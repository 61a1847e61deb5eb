import type { BackupRecord } from '../../catalog/contract.ts';
import { validationKeys } from '../../repository/layout.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import type { OwnCheckpoints } from '../host/own-checkpoints.ts';
import type { StrayFile } from '../host/stray-files.ts';
import { copiesAsBackups } from './copies-as-backups.ts';
import type { ControlDependencies } from './dependencies.ts';
import { PRESENT } from './delete-backup.ts';
import { neededHidden } from './plan-delete.ts';
import { repositoryHosts } from './repository-hosts.ts';

/** What was found in repositories and on VMs, compared with what the catalog knows. */
export const createJudgeOrphans = ({ catalog }: ControlDependencies) => {
  const presentOf = (vmUuid: string): Promise<BackupRecord[]> =>
    catalog.backups.records({ vm: vmUuid, states: PRESENT });

  /** Something works on the VM, or on a chain of its, or waits to. */
  async function isBusy(vmUuid: string, exceptFor?: string): Promise<boolean> {
    for (const { operationId, vmUuid: held, chain } of await catalog.admissions.list()) {
      if (operationId === exceptFor) continue;
      if (held === vmUuid) return true;
      // A chain bears the id of its full, an isolated backup stands for itself.
      if (chain !== null && (await catalog.backups.find(chain.id))?.backup.vm.uuid === vmUuid) return true;
    }
    return false;
  }

  return {
    /** Every repository, with the hosts to ask for its files. */
    async repositoriesToSearch(): Promise<{ repository: RepositoryRecord; hosts: string[] }[]> {
      const hosts = await repositoryHosts(catalog, []);
      return (await catalog.repositories.list()).map((repository) => ({ repository, hosts }));
    },

    /** VMs whose files in a repository are ours to judge: those of others, and of a catalog that was lost, are not. */
    async vmsToSearch(repository: string, after: string | null, limit: number): Promise<string[]> {
      return await catalog.backups.vmsIn(repository, { after, limit });
    },

    /**
     * Of files that no manifest names those that nothing here names either, that are old enough, and whose VM nobody works
     * on: a backup that is being taken has no manifest yet.
     */
    async judgeStrays(
      repository: string,
      strays: StrayFile[],
      graceSeconds: number,
      exceptFor?: string,
    ): Promise<StrayFile[]> {
      const orphans: StrayFile[] = [];
      for (const [vmUuid, files] of Map.groupBy(strays, (stray) => stray.vmUuid)) {
        if (await isBusy(vmUuid, exceptFor)) continue;
        const named = new Set<string>();
        for (const { backup, disks } of await presentOf(vmUuid)) {
          if (backup.repository !== repository) continue;
          if (backup.state !== 'Failed') for (const key of validationKeys(vmUuid, backup.id)) named.add(key);
          for (const { file, sums } of disks) named.add(file).add(sums.file);
        }
        for (const { backup, disks } of await copiesAsBackups(catalog, vmUuid, repository)) {
          for (const key of validationKeys(vmUuid, backup.id)) named.add(key);
          for (const { file, sums } of disks) named.add(file).add(sums.file);
        }
        orphans.push(...files.filter(({ key, ageSeconds }) => !named.has(key) && ageSeconds >= graceSeconds));
      }
      return orphans;
    },

    /**
     * Of checkpoints with our names those that belong to backups of ours and are not noted any more; and those of backups
     * nobody here knows, which are left alone: another installation's, or a lost catalog's.
     */
    async judgeCheckpoints(
      found: OwnCheckpoints[],
      exceptFor?: string,
    ): Promise<{ orphans: OwnCheckpoints[]; unknown: OwnCheckpoints[] }> {
      const orphans: OwnCheckpoints[] = [];
      const unknown: OwnCheckpoints[] = [];
      for (const { vm, backupIds } of found) {
        if (await isBusy(vm.uuid, exceptFor)) continue;
        const noted = new Set((await catalog.checkpoints.list(vm.uuid)).map(({ backupId }) => backupId));
        const stray = backupIds.filter((id) => !noted.has(id));
        const known = await Promise.all(stray.map(async (id) => (await catalog.backups.find(id)) !== undefined));
        const ours = stray.filter((_, index) => known[index]);
        const others = stray.filter((_, index) => !known[index]);
        if (ours.length > 0) orphans.push({ vm, backupIds: ours });
        if (others.length > 0) unknown.push({ vm, backupIds: others });
      }
      return { orphans, unknown };
    },

    /** What it takes to work alone on a VM for a moment. */
    async admissionToReclaim(
      operationId: string,
      vmUuid: string,
      run: { workflowId: string; runId: string },
    ): Promise<AdmissionRequest> {
      return await Promise.resolve({
        operationId,
        operation: 'reclaimOrphans',
        ...run,
        vmUuid,
        chain: null,
        host: null,
        repository: null,
        tenant: 'default',
        priority: 5,
      });
    },

    /** Hidden backups that nothing needs and nobody deletes: the run that deleted them was ended by force. */
    async endedDeletes(): Promise<{ backupId: string; description: string }[]> {
      const ended: { backupId: string; description: string }[] = [];
      const hidden = await catalog.backups.records({ states: ['Removed'] });
      for (const vmUuid of new Set(hidden.map(({ backup }) => backup.vm.uuid))) {
        if (await isBusy(vmUuid)) continue;
        const present = await presentOf(vmUuid);
        const needed = neededHidden(present);
        for (const { backup } of present) {
          if (backup.state !== 'Removed' || needed.has(backup.id)) continue;
          ended.push({
            backupId: backup.id,
            description: `backup ${backup.id} of VM ${backup.vm.name}: its delete was ended by force`,
          });
        }
      }
      return ended;
    },
  };
};
