import { mkdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { RepositoryLocation } from '../schemas/repository.ts';
import { BlobStoreError, type BlobStore } from './blob-store.ts';
import { createDirectoryStore } from './directory-store.ts';
import { errnoOf, storeErrorOf } from './file-errors.ts';
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
    await makeFolder(place.path).catch((error: unknown) => {
      if (!['ENOENT', 'EEXIST', 'ENOTDIR'].includes(errnoOf(error) ?? '')) {
        throw storeErrorOf(error, { act: 'write', key: REPOSITORY_FILE, path: place.path });
      }
      throw new BlobStoreError(
        'unavailable',
        `repository ${place.path}: no folder can be made there: ${String(error)}`,
        {
          cause: error,
        },
      );
    });
  }
  return openBlobStore(place);
}

/**
 * A folder, with those above it; success when it is there. Not Node's `recursive`: that one tries for ever where a folder
 * cannot be made though the one above it is there, as below /proc.
 */
async function makeFolder(path: string): Promise<void> {
  const make = (): Promise<void> => mkdir(path, { mode: 0o750 });
  await make()
    .catch(async (error: unknown) => {
      if (errnoOf(error) !== 'ENOENT' || dirname(path) === path) throw error;
      await makeFolder(dirname(path));
      await make();
    })
    .catch(async (error: unknown) => {
      if (errnoOf(error) !== 'EEXIST' || !(await stat(path)).isDirectory()) throw error;
    });
}
