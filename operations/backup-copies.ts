import type { Catalog, CopyRecord } from '../catalog/contract.ts';
import type { Backup } from '../schemas/backup.ts';
import type { BackupCopy } from '../schemas/copy.ts';

export type BackupWithCopies = Backup & { copies?: BackupCopy[] };

/** Backups with the copies that people see of them: those whose files are gone are none. */
export async function withCopies<T extends Backup>(
  catalog: Catalog,
  backups: T[],
): Promise<(T & { copies?: BackupCopy[] })[]> {
  const copies = await catalog.copies.list({
    backupIds: backups.map(({ id }) => id),
    states: ['Copying', 'Copied', 'CopyError', 'Removed'],
  });
  const byBackup = Map.groupBy(copies, ({ backupId }) => backupId);
  return backups.map((backup) => {
    const of = byBackup.get(backup.id);
    return of === undefined ? backup : { ...backup, copies: of.map(shown) };
  });
}

const shown = ({ repository, state, storedBytes, copiedAt, verifiedAt, damage, failure }: CopyRecord): BackupCopy => ({
  repository,
  state,
  storedBytes,
  copiedAt,
  verifiedAt,
  damage,
  failure,
});
