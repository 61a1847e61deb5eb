import { Option } from 'commander';
import { findBackup } from '../operations/find-backup.ts';
import type { BlobStore } from '../repository/blob-store.ts';
import type { RepositoryKeys } from '../repository/repository-keys.ts';
import { HoldfastError } from '../schemas/failures.ts';
import { restoreSources } from '../operations/restore-sources.ts';
import { parseName } from './commands/dev.ts';
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

/**
 * Of the catalog, from the repository that the backup was written to, or from that of a copy where it is gone from there.
 * @param repo the repository that was asked for
 * @throws HoldfastError BackupNotFound, BackupNotRestorable, RepositoryNotFound
 */
export async function readableOfCatalog(context: CommandContext, id: string, repo?: string): Promise<ReadableBackup> {
  const catalog = await context.catalog();
  const record = await findBackup(catalog, id);
  const { backup } = record;
  const sources = restoreSources(record, await catalog.copies.list({ backupIds: [backup.id] }));
  if (repo !== undefined && repo !== backup.repository && !sources.includes(repo)) {
    throw new HoldfastError(
      'BackupNotRestorable',
      `backup ${backup.id} is not in ${repo}; it is in ${sources.join(', ')}`,
    );
  }
  const name = repo ?? sources[0] ?? backup.repository; // of one that is damaged some files may still be read
  const repository = await catalog.repositories.find(name);
  if (repository === undefined)
    throw new HoldfastError('RepositoryNotFound', `repository ${name} is not known any more`);
  if (repository.name !== backup.repository) context.output.note(`read from its copy in ${repository.name}`);
  const { openBlobStore } = await import('../repository/open-repository.ts');
  const { openRepository } = await import('../repository/identity.ts');
  const { keysFor } = await import('../repository/repository-keys.ts');
  const store = openBlobStore(repository.location);
  await openRepository(store, repository);
  return { output: context.output, id: backup.id, vm: backup.vm, store, keys: await keysFor(store, repository) };
}

/** Which of a backup's places is read. */
export const readFromOption = (): Option =>
  new Option('--repo <repository>', 'read it from here: its own repository, or one that has a copy')
    .argParser(parseName)
    .conflicts('from');

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
