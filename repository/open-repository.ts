import { mkdir } from 'node:fs/promises';
import type { RepositoryLocation } from '../schemas/repository.ts';
import type { BlobStore } from './blob-store.ts';
import { createDirectoryStore } from './directory-store.ts';
import { storeErrorOf } from './file-errors.ts';
import { REPOSITORY_FILE } from './layout.ts';
import { createS3Store } from './s3-store.ts';

/** The store of a place, as this machine sees it. Nothing is read or written yet. */
export function openBlobStore(place: RepositoryLocation): BlobStore {
  if (place.kind === 'directory') return createDirectoryStore(place.path);
  return createS3Store(place);
}

/** As `openBlobStore`, for a new repository: creates its folder. Only for a person's "add repository". */
export async function createBlobStore(place: RepositoryLocation): Promise<BlobStore> {
  if (place.kind === 'directory') {
    await mkdir(place.path, { recursive: true, mode: 0o750 }).catch((error: unknown) => {
      throw storeErrorOf(error, { act: 'write', key: REPOSITORY_FILE, path: place.path });
    });
  }
  return openBlobStore(place);
}
