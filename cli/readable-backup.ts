import { findBackup } from '../operations/find-backup.ts';
import type { BlobStore } from '../repository/blob-store.ts';
import type { RepositoryKeys } from '../repository/repository-keys.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { CommandContext } from './context.ts';
import type { Alone } from './from-repository.ts';
import type { Output } from './output.ts';

/** A backup whose disks this process reads, and what it reads them with. */
export interface ReadableBackup {
  output: Output;
  id: string;
  vm: { uuid: string; name: string };
  store: BlobStore;
  /** null where the repository is not encrypted. */
  keys: RepositoryKeys | null;
}

/** Of the catalog, from the repository that the backup was written to. @throws HoldfastError BackupNotFound, RepositoryNotFound */
export async function readableOfCatalog(context: CommandContext, id: string): Promise<ReadableBackup> {
  const catalog = await context.catalog();
  const { backup } = await findBackup(catalog, id);
  const repository = await catalog.repositories.find(backup.repository);
  if (repository === undefined) {
    throw new HoldfastError('RepositoryNotFound', `repository ${backup.repository} is not known any more`);
  }
  const { openBlobStore } = await import('../repository/open-repository.ts');
  const { openRepository } = await import('../repository/identity.ts');
  const { keysFor } = await import('../repository/repository-keys.ts');
  const store = openBlobStore(repository.location);
  await openRepository(store, repository);
  return { output: context.output, id: backup.id, vm: backup.vm, store, keys: await keysFor(store, repository) };
}

/** Of a repository alone. @throws HoldfastError BackupNotFound, VmAmbiguous, KeyMissing */
export async function readableOfPlace(
  { output, place }: Alone,
  id: string,
  { vm }: { vm?: string },
): Promise<ReadableBackup> {
  const { findStored } = await import('../standalone/stored-backups.ts');
  const { requireKeys } = await import('../standalone/open-place.ts');
  const { manifest, warnings } = await findStored(place, { id, vm });
  requireKeys(place, manifest);
  for (const warning of warnings) output.note(`note: ${warning}`);
  return { output, id: manifest.id, vm: manifest.vm, store: place.store, keys: place.keys };
}
