import type { BackupRecord, Catalog } from '../../catalog/contract.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
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
  const damaged = await catalog.checks.damagedFiles(record.backup.repository, [...ancestry.keys()]);
  const bad = needed.find(({ file }) => damaged.has(file));
  if (bad === undefined) return;
  const owner = bad.backupId === id ? '' : `it is built on backup ${bad.backupId}, of which `;
  throw new HoldfastError(
    'BackupNotRestorable',
    `backup ${id} of VM ${vm.name} is damaged: ${owner}${damaged.get(bad.file) ?? ''}; restore another one, or mend the file and ` +
      `have it looked at: holdfast repo check ${repository} --vm ${vm.name}`,
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
  {
    backup,
    repository,
    host,
    vmUuid,
  }: { backup: Backup; repository: { name: string }; host: string; vmUuid: string | null },
): AdmissionRequest => ({
  operationId: restoreId,
  operation,
  ...run,
  vmUuid,
  chain: { id: backup.chainId ?? backup.id, mode: 'shared' },
  host,
  repository: repository.name,
  tenant: 'default',
  priority: 0,
  restoresBackupId: backup.id,
});
