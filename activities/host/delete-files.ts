import { openRepository } from '../../repository/identity.ts';
import { manifestKey, rewriterOf, sumsKey, validationKeys } from '../../repository/layout.ts';
import { deleteManifest, filesNamedBy, listStoredManifests, readStoredManifest } from '../../repository/manifest.ts';
import { RepositoryError } from '../../repository/repository-error.ts';
import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupTarget } from '../../schemas/plan.ts';
import { requireUnlocked } from './lock-backup.ts';
import { withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { readCompleted } from './publish-backup.ts';

type Repository = BackupTarget['repository'];

export const createDeleteFiles = ({ openStore }: HostDependencies) => ({
  /** The backup's manifest is there: it can be restored. */
  async isPublished(repository: Repository, vmUuid: string, backupId: string): Promise<boolean> {
    const store = openStore(repository.location);
    await openRepository(store, repository);
    return (await readCompleted(store, vmUuid, backupId)) !== undefined;
  },

  /**
   * Withdraws a backup: its manifest first, so that nobody finds half a backup, then its files. Repeatable.
   * @throws BackupLocked; BackupNotDeletable when a manifest that the catalog does not know is built on it; RepositoryUnavailable,
   *   RepositoryReadOnly
   */
  async deleteFiles(repository: Repository, vmUuid: string, backup: { id: string; files: string[] }): Promise<void> {
    await withHeartbeat('removing files', async () => {
      const store = openStore(repository.location);
      await openRepository(store, repository);
      await requireUnneeded(store, vmUuid, backup);
      const beside = await beingSwapped(store, vmUuid, backup);
      await requireUnlocked(store, backup.id, [...backup.files, manifestKey(vmUuid, backup.id)]);
      await deleteManifest(store, vmUuid, backup.id);
      for (const file of [...backup.files, ...beside, ...validationKeys(vmUuid, backup.id)])
        await store.deleteBlob(file);
    });
  },
});

/** The repository has the last word on what is built on a file: a catalog may have been brought back from yesterday. */
async function requireUnneeded(
  store: BlobStore,
  vmUuid: string,
  backup: { id: string; files: string[] },
): Promise<void> {
  const going = new Set(backup.files);
  for await (const { backupId, manifest, error } of listStoredManifests(store, vmUuid)) {
    if (backupId === backup.id) continue;
    if (error?.code === 'unsupported-version') throw error;
    // One that cannot be read cannot be restored either.
    const needs = manifest === undefined ? undefined : filesNamedBy(manifest).find((file) => going.has(file));
    if (needs === undefined) continue;
    throw new HoldfastError(
      'BackupNotDeletable',
      `backup ${backup.id}: its file ${needs} is needed by backup ${backupId}, whose manifest is in the repository and which the catalog does not know as built on it`,
    );
  }
}

/** What a rewriting that was cut off left beside the backup's files. */
async function beingSwapped(
  store: BlobStore,
  vmUuid: string,
  backup: { id: string; files: string[] },
): Promise<string[]> {
  const stored = await readStoredManifest(store, vmUuid, backup.id).catch((error: unknown) => {
    const isGone = error instanceof BlobStoreError && error.code === 'not-found';
    if (isGone || error instanceof RepositoryError) return undefined;
    throw error;
  });
  return (stored?.disks ?? []).flatMap(({ file, replacement }) => {
    const temporary = replacement?.temporary ?? '';
    const isBeside = backup.files.includes(file) && temporary.startsWith(`${file}.`) && rewriterOf(temporary);
    return isBeside ? [temporary, sumsKey(temporary)] : []; // a manifest may say what it likes
  });
}
