import type { Catalog } from '../catalog/contract.ts';
import { HoldfastError } from '../schemas/failures.ts';
import { findBackup } from './find-backup.ts';

/** Pins a backup, or unpins it; again: no change but the note. @throws HoldfastError BackupNotFound, InvalidRequest */
export async function pinBackup(
  catalog: Catalog,
  id: string,
  { pinned, note }: { pinned: boolean; note?: string | undefined },
): Promise<{ id: string; vm: { uuid: string; name: string }; pinned: boolean; note: string | null }> {
  const { backup } = await findBackup(catalog, id);
  if (!(await catalog.backups.setPinned(backup.id, pinned, note))) {
    throw new HoldfastError(
      'InvalidRequest',
      `backup ${backup.id} is ${backup.state}: only one that is whole can be pinned`,
    );
  }
  await catalog.events.record({
    at: new Date().toISOString(),
    kind: pinned ? 'backup-pinned' : 'backup-unpinned',
    vmUuid: backup.vm.uuid,
    backupId: backup.id,
    message: `backup ${backup.id} of VM ${backup.vm.name} ${pinned ? 'pinned' : 'unpinned'}${note === undefined ? '' : `: ${note}`}`,
  });
  return { id: backup.id, vm: backup.vm, pinned, note: pinned ? (note ?? null) : null };
}
