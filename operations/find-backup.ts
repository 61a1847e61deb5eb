import type { BackupRecord, Catalog } from '../catalog/contract.ts';
import { HoldfastError } from '../schemas/failures.ts';

/** The backup an id, or a beginning of one, means. @throws HoldfastError BackupNotFound */
export async function findBackup(catalog: Catalog, id: string): Promise<BackupRecord> {
  const found = await catalog.backups.findByIdPrefix(id);
  const [record, ...others] = found;
  if (record === undefined)
    throw new HoldfastError('BackupNotFound', `backup ${id} is not known; see: holdfast backup ls`);
  if (others.length > 0) {
    const ids = found.map((one) => one.backup.id).join(', ');
    throw new HoldfastError('BackupNotFound', `${id} begins several backups: ${ids}`);
  }
  return record;
}
