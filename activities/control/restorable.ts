import type { BackupRecord, Catalog } from '../../catalog/contract.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import { HoldfastError } from '../../schemas/failures.ts';

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
