import type { Catalog } from '../catalog/contract.ts';
import { BlobStoreError } from '../repository/blob-store.ts';
import { openRepository } from '../repository/identity.ts';
import { readManifest } from '../repository/manifest.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import { RepositoryError } from '../repository/repository-error.ts';
import type { Backup } from '../schemas/backup.ts';
import { evidenceOf, type BackupEvidence } from './evidence.ts';

/** The catalog does not hold it: it is read from the repository, where that can be seen from this machine. */
export async function readEvidence(
  catalog: Catalog,
  { vm, id, repository, state }: Pick<Backup, 'vm' | 'id' | 'repository' | 'state'>,
): Promise<{ evidence: BackupEvidence } | { evidenceMissing: string }> {
  if (!WITH_MANIFEST.has(state)) return { evidenceMissing: `a backup in state ${state} has no manifest` };
  const record = await catalog.repositories.find(repository);
  if (record === undefined) return { evidenceMissing: `repository ${repository} is not known any more` };
  try {
    const store = openBlobStore(record.location);
    await openRepository(store, record);
    return { evidence: evidenceOf(await readManifest(store, vm.uuid, id)) };
  } catch (error) {
    if (!(error instanceof BlobStoreError) && !(error instanceof RepositoryError)) throw error;
    return { evidenceMissing: error.message };
  }
}

const WITH_MANIFEST: ReadonlySet<Backup['state']> = new Set<Backup['state']>(['BackedUp', 'Restoring', 'Removed']);
