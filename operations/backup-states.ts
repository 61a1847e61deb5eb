import type { Catalog } from '../catalog/contract.ts';
import type { Backup } from '../schemas/backup.ts';

/**
 * Backups as people see them: one counts as `Restoring` while a restore of it is admitted. The catalog keeps no such
 * state: with several restores of one backup at once there is none to forget to put back.
 */
export async function withRestoring(catalog: Catalog, backups: Backup[]): Promise<Backup[]> {
  const restoring = await catalog.admissions.restoring();
  return backups.map((backup) =>
    backup.state === 'BackedUp' && restoring.has(backup.id) ? { ...backup, state: 'Restoring' } : backup,
  );
}
