import { mkdir } from 'node:fs/promises';
import type { BlobStore } from './blob-store.ts';
import { createDirectoryStore } from './directory-store.ts';
import { storeErrorOf } from './file-errors.ts';
import { REPOSITORY_FILE } from './layout.ts';

/** Where a repository's bytes are kept. `path`: absolute, on the machine that opens it. */
export interface RepositoryPlace {
  kind: 'directory';
  path: string;
}

/** The store of a place. Nothing is read or written yet. */
export const openBlobStore = (place: RepositoryPlace): BlobStore => createDirectoryStore(place.path);

/** As `openBlobStore`, for a new repository: creates its folder. Only for a person's "add repository". */
export async function createBlobStore(place: RepositoryPlace): Promise<BlobStore> {
  await mkdir(place.path, { recursive: true, mode: 0o750 }).catch((error: unknown) => {
    throw storeErrorOf(error, { act: 'write', key: REPOSITORY_FILE, path: place.path });
  });
  return openBlobStore(place);
}
