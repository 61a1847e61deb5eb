import type { BackupRecord, Catalog, CopyRecord } from '../catalog/contract.ts';
import type { BackupState } from '../schemas/states.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { RepositoryRecord } from '../schemas/repository.ts';

const HAS_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed'];

/**
 * Repositories that a backup can be restored from, as far as the catalog can tell, the likeliest to be whole first: its own,
 * then those of copies, listed ones before hidden ones, and what is known to be damaged last. A chain is read from one
 * repository.
 */
export function restoreSources(
  { backup, damage }: Pick<BackupRecord, 'backup' | 'damage'>,
  copies: readonly Pick<CopyRecord, 'repository' | 'state' | 'damage'>[],
): string[] {
  const places = [
    ...(HAS_FILES.includes(backup.state) ? [{ repository: backup.repository, damage, rank: 0 }] : []),
    ...copies.flatMap((copy) => {
      if (copy.state !== 'Copied' && copy.state !== 'Removed') return [];
      return [{ ...copy, rank: copy.state === 'Copied' ? 1 : 2 }];
    }),
  ].map((place) => ({ ...place, rank: place.rank + (place.damage === null ? 0 : 10) }));
  return places
    .toSorted((a, b) => a.rank - b.rank || (a.repository < b.repository ? -1 : 1))
    .map(({ repository }) => repository);
}

/**
 * A backup that has its files somewhere, and where.
 * @param only the repository that was asked for
 * @throws BackupNotFound, BackupNotRestorable, RepositoryNotFound
 */
export async function restorableFrom(
  catalog: Catalog,
  backupId: string,
  only?: string,
): Promise<{ record: BackupRecord; repository: RepositoryRecord; others: RepositoryRecord[] }> {
  const record = await catalog.backups.find(backupId);
  if (record === undefined) {
    throw new HoldfastError('BackupNotFound', `backup ${backupId} is not known; see: holdfast backup ls`);
  }
  const names = restoreSources(record, await catalog.copies.list({ backupIds: [backupId] }));
  if (names.length === 0) {
    const { state } = record.backup;
    throw new HoldfastError('BackupNotRestorable', `backup ${backupId} is ${state}: there is nothing to restore from`);
  }
  if (only !== undefined && !names.includes(only)) {
    throw new HoldfastError(
      'BackupNotRestorable',
      `backup ${backupId} is not in ${only}; it is in ${names.join(', ')}`,
    );
  }
  const [repository, ...others] = await Promise.all(
    (only === undefined ? names : [only]).map(async (name) => await repositoryNamed(catalog, name, backupId)),
  );
  if (repository === undefined) throw new HoldfastError('RepositoryNotFound', `backup ${backupId} is in no repository`);
  return { record, repository, others };
}

async function repositoryNamed(catalog: Catalog, name: string, backupId: string): Promise<RepositoryRecord> {
  const repository = await catalog.repositories.find(name);
  if (repository !== undefined) return repository;
  throw new HoldfastError('RepositoryNotFound', `repository ${name} of backup ${backupId} is not known any more`);
}
