import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { RepositoryError } from '../../repository/repository-error.ts';
import { placeText } from '../../schemas/repository.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import type { RestoreOfBackup } from '../../schemas/restore-plan.ts';
import type { HostDependencies } from './dependencies.ts';
import { readManifestChain, type ManifestChain } from './restore-chain.ts';

export interface RestoreSource {
  store: BlobStore;
  manifest: Manifest;
  chain: ManifestChain;
}

/**
 * The backup in its repository, with all it is built on. On the host it was taken on a repository that is away is waited
 * for; on another host it may never have been mounted, and nobody should wait for that.
 * @throws RepositoryNotOnHost, RepositoryUnavailable, RepositoryForeign, BackupFileMissing, BackupNotRestorable
 */
export async function openRestoreSource(
  { host, openStore }: Pick<HostDependencies, 'host' | 'openStore'>,
  plan: RestoreOfBackup & { isOtherHost?: boolean | undefined },
): Promise<RestoreSource> {
  const { repository, backupId, vm } = plan;
  const store = openStore(repository.location);
  await openRepository(store, repository).catch((error: unknown) => {
    if (plan.isOtherHost !== true || !isAway(error)) throw error;
    throw new HoldfastError(
      'RepositoryNotOnHost',
      `host ${host} does not see repository ${repository.name} at ${placeText(repository.location)}; mount it there, or restore ` +
        'to a host that has it',
      { cause: error },
    );
  });
  const chain = await readManifestChain(store, vm.uuid, backupId);
  const manifest = chain.get(backupId);
  if (manifest === undefined) throw new HoldfastError('BackupNotFound', `no manifest of backup ${backupId}`);
  return { store, manifest, chain };
}

const isAway = (error: unknown): boolean =>
  (error instanceof RepositoryError && error.code === 'not-a-repository') ||
  (error instanceof BlobStoreError && error.code === 'unavailable');
