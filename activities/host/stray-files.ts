import type { BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { isBackupFile, validationKeys, vmFolder } from '../../repository/layout.ts';
import { filesNamedBy, listStoredManifests } from '../../repository/manifest.ts';
import { RepositoryError } from '../../repository/repository-error.ts';
import type { BackupTarget } from '../../schemas/plan.ts';
import { withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';

type Repository = BackupTarget['repository'];

/** A file of ours in a repository that no manifest names. */
export interface StrayFile {
  vmUuid: string;
  key: string;
  sizeBytes: number;
  modifiedMs: number;
  ageSeconds: number;
  /** Its upload was not finished. */
  isUpload: boolean;
}

/** More go with the next look. */
const AT_MOST = 500;

export const createStrayFiles = ({ openStore }: HostDependencies) => ({
  /**
   * Files in the folders of these VMs that no manifest names. Of a VM with a manifest that cannot be read nothing is
   * called stray: that one may name them.
   * @throws RepositoryForeign, RepositoryUnavailable: a listing that fails is none
   */
  async findStrays(
    repository: Repository,
    vmUuids: string[],
  ): Promise<{ strays: StrayFile[]; problems: { vmUuid: string; message: string }[] }> {
    return await withHeartbeat('looking through the repository', async () => {
      const store = openStore(repository.location);
      await openRepository(store, repository);
      const strays: StrayFile[] = [];
      const problems: { vmUuid: string; message: string }[] = [];
      for (const vmUuid of vmUuids) {
        const found = await straysOf(store, vmUuid).catch((error: unknown) => {
          if (!(error instanceof RepositoryError)) throw error;
          problems.push({ vmUuid, message: error.message });
          return [];
        });
        strays.push(...found);
        if (strays.length >= AT_MOST) break;
      }
      return { strays: strays.slice(0, AT_MOST), problems };
    });
  },

  /** Removes those that are still stray and have not changed since. For a caller to whom the VM is admitted. Repeatable. */
  async removeStrays(repository: Repository, vmUuid: string, strays: StrayFile[]): Promise<number> {
    return await withHeartbeat('removing stray files', async () => {
      const store = openStore(repository.location);
      await openRepository(store, repository);
      let removed = 0;
      for (const { key, sizeBytes, modifiedMs, isUpload } of await straysOf(store, vmUuid)) {
        const asked = strays.find((stray) => stray.key === key && stray.isUpload === isUpload);
        if (asked?.sizeBytes !== sizeBytes || asked.modifiedMs !== modifiedMs) continue;
        await (isUpload ? store.discardUploads(key) : store.deleteBlob(key));
        removed += 1;
      }
      return removed;
    });
  },
});

/** @throws RepositoryError when a manifest cannot be read */
async function straysOf(store: BlobStore, vmUuid: string): Promise<StrayFile[]> {
  const named = new Set<string>();
  for await (const { backupId, manifest, error } of listStoredManifests(store, vmUuid)) {
    if (error !== undefined) throw error;
    for (const key of validationKeys(vmUuid, backupId)) named.add(key);
    for (const file of filesNamedBy(manifest)) named.add(file);
  }
  const strays: StrayFile[] = [];
  for (const isUpload of [false, true]) {
    for await (const file of isUpload ? store.listUploads(vmFolder(vmUuid)) : store.listBlobs(vmFolder(vmUuid))) {
      if (!isBackupFile(file.key)) continue;
      // In a bucket, a file that a manifest names may have an upload beside it: of a move that was cut off.
      if (named.has(file.key) && !(isUpload && (await store.statBlob(file.key)))) continue;
      const ageSeconds = Math.floor((Date.now() - file.modifiedMs) / 1000);
      strays.push({ vmUuid, ...file, ageSeconds, isUpload });
    }
  }
  return strays;
}
