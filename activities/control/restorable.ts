import type { BackupRecord, Catalog } from '../../catalog/contract.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import { neededFiles } from './needed-files.ts';
import { HoldfastError } from '../../schemas/failures.ts';

/**
 * Refuses what is known to be damaged, before anything is written. Of a backup with one damaged disk the others can be had.
 * @param targets the disks that are wanted; default: all
 * @throws HoldfastError BackupNotRestorable
 */
export async function requireUndamaged(
  catalog: Catalog,
  record: BackupRecord,
  targets?: readonly string[] | null,
): Promise<void> {
  const { id, vm, repository } = record.backup;
  const ancestry = new Map((await catalog.backups.ancestry(id)).map((each) => [each.backup.id, each]));
  const needed = neededFiles(record, ancestry, targets ?? undefined);
  const damaged = await catalog.checks.damagedFiles([...ancestry.keys()]);
  const bad = needed.find(({ file }) => damaged.has(file));
  if (bad === undefined) return;
  const owner = bad.backupId === id ? '' : `it is built on backup ${bad.backupId}, of which `;
  throw new HoldfastError(
    'BackupNotRestorable',
    `backup ${id} of VM ${vm.name} is damaged: ${owner}${damaged.get(bad.file) ?? ''}; restore another one, or mend the file and ` +
      `have it looked at: holdfast repo check ${repository} --vm ${vm.name}`,
  );
}

/** A backup that has its files. A `Removed` one has them for those that are built on it, and they serve as well. */
export async function restorable(catalog: Catalog, backupId: string): Promise<BackupRecord> {
  const found = await catalog.backups.find(backupId);
  if (found === undefined)
    throw new HoldfastError('BackupNotFound', `backup ${backupId} is not known; see: holdfast backup ls`);
  const { state } = found.backup;
  if (state === 'BackedUp' || state === 'Restoring' || state === 'Removed') return found;
  throw new HoldfastError('BackupNotRestorable', `backup ${backupId} is ${state}: there is nothing to restore from`);
}

export async function repositoryOf(catalog: Catalog, backup: Backup): Promise<RepositoryRecord> {
  const repository = await catalog.repositories.find(backup.repository);
  if (repository !== undefined) return repository;
  throw new HoldfastError(
    'RepositoryNotFound',
    `repository ${backup.repository} of backup ${backup.id} is not known any more`,
  );
}

/**
 * What a restore must be admitted to. The chain is shared: several restores read it at once, and nothing compresses or
 * deletes it meanwhile.
 * @param place `vmUuid`: the VM that is changed; null when it is a new one
 */
export const restoreAdmission = (
  restoreId: string,
  operation: string,
  run: { workflowId: string; runId: string },
  { backup, host, vmUuid }: { backup: Backup; host: string; vmUuid: string | null },
): AdmissionRequest => ({
  operationId: restoreId,
  operation,
  ...run,
  vmUuid,
  chain: { id: backup.chainId ?? backup.id, mode: 'shared' },
  host,
  repository: backup.repository,
  tenant: 'default',
  priority: 0,
  restoresBackupId: backup.id,
});
