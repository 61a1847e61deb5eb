import type { BackupRecord, Catalog } from '../../catalog/contract.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupTarget, VmFacts } from '../../schemas/plan.ts';
import type { BackupState, FullReason } from '../../schemas/states.ts';
import { damageOf, isOfFiles, problemsBeneath, type ParentCandidate } from './choose-parent.ts';

const LIVING: BackupState[] = ['BackedUp', 'Restoring'];

/** What a VM's next backup may build on, and what is told of those on which it may not. */
export const createParentCandidates = (catalog: Catalog) => {
  const withAncestry = async (record: BackupRecord): Promise<ParentCandidate> => ({
    record,
    ancestry: await catalog.backups.ancestry(record.backup.id),
  });

  return {
    /** The newest backup of the open chain, and those of it whose checkpoints are kept; youngest first. */
    async candidates(vmUuid: string, repository: string): Promise<ParentCandidate[]> {
      const current = await catalog.backups.current(vmUuid, repository);
      if (current === undefined) return [];
      const checkpoints = await catalog.checkpoints.list(vmUuid);
      const live = checkpoints.filter(({ state }) => state === 'current' || state === 'kept');
      const found = await Promise.all(
        live
          .filter(({ backupId }) => backupId !== current.backup.id)
          .map(({ backupId }) => catalog.backups.find(backupId)),
      );
      const older = found
        .flatMap((record) => record ?? [])
        .filter(({ backup }) => backup.chainId === current.backup.chainId && LIVING.includes(backup.state))
        .toSorted((a, b) => instantMs(b) - instantMs(a));
      return await Promise.all([current, ...older].map(withAncestry));
    },

    /** The candidate that a request names. @throws HoldfastError ParentNotUsable, BackupNotFound */
    async requireSince(
      since: string,
      { vm, repository }: Pick<BackupTarget, 'vm' | 'repository'>,
      candidates: readonly ParentCandidate[],
      ends: FullReason | undefined,
    ): Promise<ParentCandidate> {
      const refuse = (why: string): HoldfastError =>
        new HoldfastError('ParentNotUsable', `since: nothing can be built on backup ${since} of VM ${vm.name}: ${why}`);
      const record = await catalog.backups.find(since);
      if (record === undefined) {
        throw new HoldfastError('BackupNotFound', `since: backup ${since} is not known; see: holdfast backup ls`);
      }
      if (record.backup.vm.uuid !== vm.uuid) throw refuse(`it is of VM ${record.backup.vm.name}`);
      if (record.backup.repository !== repository.name)
        throw refuse(`it lies in repository ${record.backup.repository}`);
      const chainId = candidates[0]?.record.backup.chainId;
      if (chainId == null || record.backup.chainId !== chainId) throw refuse('it is not of the open chain');
      if (ends !== undefined) throw refuse('the chain is over, as it has as many backups as the offering allows');
      const found = candidates.find((candidate) => candidate.record.backup.id === since);
      if (found !== undefined) return found;
      const kept = candidates.map((candidate) => candidate.record.backup.id).join(', ');
      throw refuse(`its checkpoint is not on the VM any more; there are those of ${kept}`);
    },

    /** Marks backups whose files were found missing or damaged, and all that is built on them; takes back what is mended. */
    async noteDamage(candidates: readonly ParentCandidate[], problems: VmFacts['parentProblems']): Promise<void> {
      for (const candidate of candidates) {
        const { id } = candidate.record.backup;
        if (!isOfFiles(candidate.record.damage) || problemsBeneath(candidate, problems).length > 0) continue;
        await catalog.validations.setDamage([id], null);
      }
      const [current] = candidates;
      if (problems.length === 0 || current === undefined) return;
      const { vm, repository, chainId } = current.record.backup;
      const all = await catalog.backups.list({ vm: vm.uuid, repository, all: true });
      for (const { id } of all.filter((one) => one.chainId === chainId && ['Removed', ...LIVING].includes(one.state))) {
        const record = await catalog.backups.find(id);
        if (record === undefined || record.damage !== null) continue;
        const candidate = await withAncestry(record);
        const [first, ...others] = problemsBeneath(candidate, problems);
        if (first === undefined) continue;
        const damage = damageOf(first);
        await catalog.validations.setDamage([id], damage);
        await catalog.events.record({
          at: new Date().toISOString(),
          kind: 'backup-damaged',
          vmUuid: vm.uuid,
          backupId: id,
          message: `backup ${id} of VM ${vm.name} cannot be relied on: ${damage.replace(/^files: /, '')}`,
          detail: { files: [first, ...others] },
        });
      }
    },
  };
};

const instantMs = ({ backup }: BackupRecord): number => Date.parse(backup.instant ?? '');
