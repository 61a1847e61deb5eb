import type { BlobStore } from '../repository/blob-store.ts';
import { openRepository } from '../repository/identity.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import { openKeysWith, readIdentities, type RepositoryKeys } from '../repository/repository-keys.ts';
import { unsealManifest } from '../repository/sealed-manifest.ts';
import { secretPlace } from '../repository/secret.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { Manifest } from '../schemas/manifest.ts';
import { placeText, type RepositoryLocation, type SecretReference } from '../schemas/repository.ts';

/** A repository as this machine finds it, known to no catalog. Nothing here writes to it. */
export interface OpenPlace {
  store: BlobStore;
  /** The place in words for people. */
  place: string;
  /** What opens an encrypted repository; null where it is not encrypted, or nobody gave an identity. */
  keys: RepositoryKeys | null;
}

/**
 * @param identity where an operator's identity is found on this machine
 * @throws RepositoryError `not-a-repository`, `unsupported-version`, `key-missing`, `key-wrong`; BlobStoreError
 */
export async function openPlace(location: RepositoryLocation, identity?: SecretReference): Promise<OpenPlace> {
  const store = openBlobStore(location);
  const { encryption } = await openRepository(store);
  const keys =
    encryption === undefined || identity === undefined
      ? null
      : await openKeysWith(store, await readIdentities(identity), secretPlace(identity));
  return { store, place: placeText(location), keys };
}

/** The manifest with what is sealed in it, as far as there are keys. */
export const openedManifest = async ({ keys }: OpenPlace, stored: Manifest): Promise<Manifest> =>
  keys === null ? stored : await unsealManifest(stored, keys);

/** @throws HoldfastError KeyMissing where the backup cannot be read without keys, and there are none */
export function requireKeys({ keys, place }: OpenPlace, { sealed, disks }: Manifest): void {
  if (keys !== null || (sealed === undefined && disks.every(({ encryption }) => encryption === undefined))) return;
  throw new HoldfastError(
    'KeyMissing',
    `${place} is encrypted: give the identity of one of its operators with --identity-file or --identity-env`,
  );
}
