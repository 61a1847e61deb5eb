import { repositoryIdentity } from '../schemas/manifest.ts';
import type { RepositoryIdentity } from '../schemas/manifest.ts';
import type { BlobStore } from './blob-store.ts';
import { BlobStoreError } from './blob-store.ts';
import { encodeJson, readJson } from './json-blob.ts';
import { REPOSITORY_FILE } from './layout.ts';
import { RepositoryError } from './repository-error.ts';

/** Version of layout and byte formats; docs/repository-format.md lists the changes. */
export const FORMAT_VERSION = 1;

/**
 * Reads `repository.json`.
 * @param expectedId refuse another repository, say one mounted in this one's place
 * @throws RepositoryError `not-a-repository`, `foreign`, `unsupported-version`, `invalid`; BlobStoreError
 */
export async function openRepository(store: BlobStore, expectedId?: string): Promise<RepositoryIdentity> {
  const identity = await readJson(store, REPOSITORY_FILE, repositoryIdentity, {
    field: 'formatVersion',
    known: FORMAT_VERSION,
    maxBytes: 65_536,
  }).catch((error: unknown) => {
    if (error instanceof BlobStoreError && error.code === 'not-found') {
      throw new RepositoryError(
        'not-a-repository',
        REPOSITORY_FILE,
        `is missing: not a repository, or its file system is not mounted (${error.message})`,
        { cause: error },
      );
    }
    throw error;
  });
  if (expectedId !== undefined && identity.id !== expectedId) {
    throw new RepositoryError('foreign', REPOSITORY_FILE, `is of repository ${identity.id}, not of ${expectedId}`);
  }
  return identity;
}

/**
 * Makes a repository out of an empty place; one that is there already, with the same id, is left as it is.
 * @throws RepositoryError `foreign` when another repository is there; BlobStoreError
 */
export async function initRepository(store: BlobStore, { id }: { id: string }): Promise<RepositoryIdentity> {
  const present = await openRepository(store, id).catch((error: unknown) => {
    if (error instanceof RepositoryError && error.code === 'not-a-repository') return undefined;
    throw error;
  });
  if (present) return present;
  const identity = repositoryIdentity.parse({ id, formatVersion: FORMAT_VERSION, createdAt: new Date().toISOString() });
  await store.putBlob(REPOSITORY_FILE, encodeJson(identity)).catch((error: unknown) => {
    if (!(error instanceof BlobStoreError && error.code === 'exists')) throw error;
  });
  return openRepository(store, id); // another process may have been first
}
