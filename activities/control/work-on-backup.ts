import type { BackupRecord, Catalog } from '../../catalog/contract.ts';
import type { AdmissionRequest, Offering } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';

/** @throws BackupNotFound */
export async function recordOf(catalog: Catalog, backupId: string): Promise<BackupRecord> {
  const record = await catalog.backups.find(backupId);
  if (record !== undefined) return record;
  throw new HoldfastError('BackupNotFound', `backup ${backupId} is not known; see: holdfast backup ls`);
}

/** The repository that a backup was written to. @throws RepositoryNotFound */
export async function repositoryOf(catalog: Catalog, { backup }: BackupRecord): Promise<RepositoryRecord> {
  const repository = await catalog.repositories.find(backup.repository);
  if (repository !== undefined) return repository;
  throw new HoldfastError('RepositoryNotFound', `repository ${backup.repository} is not known any more`);
}

/** What protects the VM now; what did when the backup was taken if nothing does any more. */
export async function offeringOf(catalog: Catalog, { backup, offering }: BackupRecord): Promise<Offering | undefined> {
  const name = (await catalog.vms.find(backup.vm.uuid))?.offering ?? offering;
  return name === null ? undefined : await catalog.offerings.find(name);
}

/** What work on a stored backup is admitted to that others may read meanwhile: backups of the VM and restores go on. */
export const admissionToWork = (
  { backup }: BackupRecord,
  offering: Offering | undefined,
  work: Pick<AdmissionRequest, 'operationId' | 'operation' | 'workflowId' | 'runId'> & { repository?: string },
): AdmissionRequest => ({
  ...work,
  vmUuid: null,
  chain: { id: backup.chainId ?? backup.id, mode: 'shared' },
  host: null, // jobs have slots of their own
  repository: work.repository ?? null,
  tenant: offering?.tenant ?? 'default',
  priority: offering?.priority ?? 3,
});
