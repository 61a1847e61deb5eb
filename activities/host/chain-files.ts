import type { ChainFile } from '../../copier/contract.ts';
import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import { openEncryptedFile } from '../../repository/open-encrypted-file.ts';
import type { RepositoryKeys } from '../../repository/repository-keys.ts';
import { readSums } from '../../repository/sums.ts';
import type { ManifestDisk } from '../../schemas/manifest.ts';

/** What a manifest says of a stored file that it takes to read it. */
export type StoredDiskFile = Pick<ManifestDisk, 'file' | 'storedBytes' | 'sums' | 'encryption'>;

/**
 * Stored files, ready to be read: with their sums, and opened where they are encrypted. No data is read.
 * @param keys of their repository; null where it is not encrypted
 * @throws RepositoryError `key-missing`, `key-wrong`, `invalid`; BlobStoreError
 */
export const openChainFiles = (
  store: BlobStore,
  keys: RepositoryKeys | null,
  disks: readonly StoredDiskFile[],
): Promise<ChainFile[]> =>
  Promise.all(
    disks.map(async (stored) => ({
      source: store.source(stored.file),
      storedBytes: stored.storedBytes,
      segments: await readSums(store, stored),
      encryption: await openEncryptedFile(store, stored, keys),
    })),
  );

/**
 * That the keys open each of these files, before anything is done. Files that are missing are not its business.
 * @throws RepositoryError `key-missing`, `key-wrong`, `invalid`
 */
export async function requireOpening(
  store: BlobStore,
  keys: RepositoryKeys | null,
  disks: readonly ManifestDisk[],
): Promise<void> {
  for (const disk of disks) {
    await openEncryptedFile(store, disk, keys).catch((error: unknown) => {
      if (!(error instanceof BlobStoreError && error.code === 'not-found')) throw error;
    });
  }
}
