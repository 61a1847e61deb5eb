import { constants } from 'node:fs';
import { lstat, mkdir, open, readdir, rmdir, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BlobStoreError } from './blob-store.ts';
import { errnoOf, storeErrorOf } from './file-errors.ts';
import { checkKey, REPOSITORY_FILE } from './layout.ts';

/** Where one blob of a directory store lies. */
export interface BlobPlace {
  key: string;
  /** Absolute path of the file. */
  path: string;
  folder: string;
  name: string;
  /** Folders between the root and the file, outermost first, the root not included. */
  folders: string[];
}

/** Half-written small files; the dot keeps them out of the keys. */
export const TEMPORARY_PREFIX = '.tmp-';
/** Beside an upload that is not finished: holds its token. */
export const UPLOAD_PREFIX = '.upload-';
/** A temporary file older than this belongs to a writer that has ended: small blobs take seconds. */
const LEFTOVER_AGE_MS = 3_600_000;

export function placeOf(root: string, key: string): BlobPlace {
  const segments = checkKey(key).split('/');
  const name = segments.at(-1) ?? '';
  const folders = segments.slice(0, -1).map((_, index) => join(root, ...segments.slice(0, index + 1)));
  return { key, path: join(root, ...segments), folder: folders.at(-1) ?? root, name, folders };
}

/**
 * Refuses to go on where `repository.json` is not there: what is mounted at the root has vanished, and to create files
 * in the empty folder beneath, or to call all backups lost, would be worse than to wait.
 * @throws BlobStoreError `unavailable`
 */
export async function assertRoot(root: string): Promise<void> {
  const path = join(root, REPOSITORY_FILE);
  const info = await lstat(path).catch((error: unknown) => {
    throw new BlobStoreError(
      'unavailable',
      `repository ${root}: ${REPOSITORY_FILE} cannot be read; is its file system mounted? (${String(error)})`,
      { key: REPOSITORY_FILE, cause: error },
    );
  });
  if (!info.isFile()) {
    throw new BlobStoreError('unavailable', `repository ${root}: ${REPOSITORY_FILE} is not a file`);
  }
}

/** Refuses symbolic links on the way: they could lead out of the repository. Missing folders pass. */
export async function assertPlainFolders(place: BlobPlace): Promise<void> {
  for (const folder of place.folders) {
    const info = await lstat(folder).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw storeErrorOf(error, { act: 'read', key: place.key, path: folder });
    });
    if (info === undefined) return;
    if (!info.isDirectory()) {
      throw new BlobStoreError('invalid-key', `repository folder ${folder} is not a folder (a symbolic link?)`, {
        key: place.key,
      });
    }
  }
}

/** Creates the folders of a blob and runs `create`, again when another process removed the empty folder in between. */
export async function inFolder<T>(place: BlobPlace, create: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    await assertPlainFolders(place);
    for (const folder of place.folders) {
      await mkdir(folder, { mode: 0o750 }).catch((error: unknown) => {
        if (errnoOf(error) !== 'EEXIST') throw error;
      });
    }
    try {
      return await create();
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT' || attempt === 5) throw error;
    }
  }
}

export async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  await folder.sync();
}

/**
 * Makes the entries on the way to a file durable, up to the root. All of them each time: another process may have
 * created a folder and not yet synced it.
 */
export async function syncFolders(root: string, place: BlobPlace): Promise<void> {
  for (const folder of place.folders.toReversed()) await syncFolder(folder);
  await syncFolder(root);
}

/** Removes a file; success when there is none. */
export async function removeFile(path: string): Promise<boolean> {
  try {
    await unlink(path);
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Removes the folders of a removed blob as far as they are empty. What cannot be removed stays. */
export async function removeEmptyFolders(place: BlobPlace): Promise<string[]> {
  const removed: string[] = [];
  for (const folder of place.folders.toReversed()) {
    const gone = await rmdir(folder).then(
      () => true,
      () => false,
    );
    if (!gone) break;
    removed.push(folder);
  }
  return removed;
}

/** Removes temporary files that a killed writer left in a folder. */
export async function removeLeftovers(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => []);
  for (const name of names.filter((each) => each.startsWith(TEMPORARY_PREFIX))) {
    const path = join(folder, name);
    const info = await lstat(path).catch(() => undefined);
    if (info && Date.now() - info.mtimeMs > LEFTOVER_AGE_MS) await removeFile(path).catch(() => false);
  }
}

/** The nearest folder above `path` that is still there, or the root. */
export async function syncSurvivingFolder(root: string, place: BlobPlace, removed: string[]): Promise<void> {
  const last = removed.at(-1);
  await syncFolder(last === undefined ? place.folder : last === root ? root : dirname(last)).catch((error: unknown) => {
    if (errnoOf(error) !== 'ENOENT') throw error; // another process removed that one too, and syncs its parent
  });
}
