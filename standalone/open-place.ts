import type { BlobStore } from '../repository/blob-store.ts';
import { openRepository } from '../repository/identity.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import { placeText, type RepositoryLocation } from '../schemas/repository.ts';

/** A repository as this machine finds it, known to no catalog. Nothing here writes to it. */
export interface OpenPlace {
  store: BlobStore;
  /** The place in words for people. */
  place: string;
}

/** @throws RepositoryError `not-a-repository`, `unsupported-version`; BlobStoreError */
export async function openPlace(location: RepositoryLocation): Promise<OpenPlace> {
  const store = openBlobStore(location);
  await openRepository(store);
  return { store, place: placeText(location) };
}
