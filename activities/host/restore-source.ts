import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { keysFor } from '../../repository/repository-keys.ts';
import { RepositoryError } from '../../repository/repository-error.ts';
import { unsealManifest } from '../../repository/sealed-manifest.ts';
import { placeText } from '../../schemas/repository.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import type { RestoreOfBackup } from '../../schemas/restore-plan.ts';
import type { HostDependencies } from './dependencies.ts';
import { requireOpening } from './chain-files.ts';
import { diskOfFile, filesOfDisk, readManifestChain, type ManifestChain } from './restore-chain.ts';

export interface RestoreSource {
  store: BlobStore;
  /** Whole, also where the repository keeps it sealed. */
  manifest: Manifest;
  chain: ManifestChain;
}

/**
 * The backup in its repository, with all it is built on. On the host it was taken on a repository that is away is waited
 * for; on another host it may never have been mounted, and nobody should wait for that.
 * Of an encrypted repository the keys are opened here, and each file's key with them: before a byte is written.
 * @throws RepositoryNotOnHost, RepositoryUnavailable, RepositoryForeign, BackupFileMissing, BackupNotRestorable, KeyMissing, KeyWrong
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
  const stored = chain.get(backupId);
  if (stored === undefined) throw new HoldfastError('BackupNotFound', `no manifest of backup ${backupId}`);
  const keys = await keysFor(store, repository);
  const manifest = await unsealManifest(stored, keys);
  const files = manifest.disks.flatMap(({ target }) => filesOfDisk(chain, backupId, target));
  await requireOpening(
    store,
    keys,
    files.map((file) => diskOfFile(chain, file)),
  );
  return { store, manifest, chain: new Map(chain).set(backupId, manifest) };
}

const isAway = (error: unknown): boolean =>
  (error instanceof RepositoryError && error.code === 'not-a-repository') ||
  (error instanceof BlobStoreError && error.code === 'unavailable');
