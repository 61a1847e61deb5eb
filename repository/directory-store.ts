import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { link, lstat, open, readFile, readdir, rename, statfs } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { BlobStoreError } from './blob-store.ts';
import type { BlobInfo, BlobStore, BlobUpload } from './blob-store.ts';
import {
  assertPlainFolders,
  assertRoot,
  inFolder,
  placeOf,
  removeEmptyFolders,
  removeFile,
  removeLeftovers,
  syncFolders,
  syncSurvivingFolder,
  TEMPORARY_PREFIX,
  UPLOAD_PREFIX,
} from './directory-files.ts';
import type { BlobPlace } from './directory-files.ts';
import { errnoOf, storeErrorOf } from './file-errors.ts';
import { checkKey, REPOSITORY_FILE } from './layout.ts';
import { fileName } from '../schemas/names.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;
/** Disk contents are nobody else's business; the group may be given to those who read them by hand. */
const FILE_MODE = 0o640;
const DEFAULT_MAX_BYTES = 16 * 1024 * 1024;
/** link(2) where the file system has no hard links: vfat and some FUSE and SMB mounts. */
const NO_HARD_LINKS = new Set(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK']);

/**
 * Blobs as files below a local or NFS folder. The folder must hold `repository.json` before anything else is written
 * or anything is called missing: an empty mount point is `unavailable`.
 *
 * An upload is written under its final name: its qcow2 header comes last, and only a manifest makes it count. Beside it
 * `.upload-<name>` holds the token, so that only its owner goes on with it; as long as that file is there the
 * blob is neither listed nor found. Symbolic links below the root are refused.
 * @param root made absolute once; a symbolic link to the root itself is followed
 */
export function createDirectoryStore(root: string): BlobStore {
  const base = resolve(root);

  /** Runs one access to the files of a blob; errors of the operating system become the store's. */
  async function access<T>(act: 'read' | 'write', key: string, run: (place: BlobPlace) => Promise<T>): Promise<T> {
    const place = placeOf(base, key);
    try {
      if (key !== REPOSITORY_FILE) await assertRoot(base);
      await assertPlainFolders(place);
      return await run(place);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' && act === 'write') {
        // Writers create what they need: the root has vanished, or somebody removed the file of an upload.
        throw new BlobStoreError('unavailable', `repository file ${place.path} is gone: ${String(error)}`, {
          key,
          cause: error,
        });
      }
      throw storeErrorOf(error, { act, key, path: place.path });
    }
  }

  const uploadOf = (place: BlobPlace, token: string): BlobUpload => ({
    key: place.key,
    token,
    sink: { kind: 'file', path: place.path, blobKey: place.key },
    finish: (totalBytes) => access('write', place.key, () => finishUpload(base, place, totalBytes)),
    abort: () => access('write', place.key, () => removeBlob(base, place)),
  });

  async function* list(prefix: string, what: 'blobs' | 'uploads'): AsyncGenerator<BlobInfo> {
    if (prefix !== '' && !prefix.endsWith('/')) {
      throw new BlobStoreError('invalid-key', `not a folder of a repository: ${JSON.stringify(prefix)}`);
    }
    const folder = prefix === '' ? '' : checkKey(prefix.slice(0, -1));
    if (folder !== '') await assertPlainFolders(placeOf(base, `${folder}/x`));
    yield* listFolder(base, folder, what);
  }

  const freeSpaceBytes = async (): Promise<number> => {
    await assertRoot(base);
    const space = await statfs(base).catch((error: unknown) => {
      throw storeErrorOf(error, { act: 'read', key: REPOSITORY_FILE, path: base });
    });
    return space.bavail * space.bsize;
  };

  return {
    async createUpload(key, { expectedBytes }) {
      const freeBytes = await freeSpaceBytes();
      if (freeBytes < expectedBytes) {
        throw new BlobStoreError(
          'full',
          `repository ${base}: ${key} needs ${expectedBytes} bytes, ${freeBytes} are free`,
          { key },
        );
      }
      return access('write', key, async (place) => {
        const token = randomUUID();
        await inFolder(place, () => writeNew(place.path, ''));
        await writeNew(join(place.folder, UPLOAD_PREFIX + place.name), token).catch(async (error: unknown) => {
          await removeFile(place.path); // without its token nobody could go on with it
          throw error;
        });
        return uploadOf(place, token);
      });
    },

    resumeUpload: (key, token) =>
      access('read', key, async (place) => {
        const held = await tokenOf(place);
        const file = await statFile(place);
        return held === token && file ? uploadOf(place, token) : undefined;
      }),

    putBlob: (key, content, { replace = false } = {}) =>
      access('write', key, async (place) => {
        const temporary = join(place.folder, `${TEMPORARY_PREFIX}${randomUUID()}`);
        try {
          await inFolder(place, () => writeNew(temporary, content));
          await (replace ? rename(temporary, place.path) : publishNew(temporary, place, content));
        } finally {
          await removeFile(temporary).catch(() => false); // gone after a rename; else cleaned by a later writer
        }
        await syncFolders(base, place);
        await removeLeftovers(place.folder);
      }),

    getBlob: (key, { maxBytes = DEFAULT_MAX_BYTES } = {}) =>
      access('read', key, async (place) => {
        await using file = await open(place.path, O_RDONLY | O_NOFOLLOW);
        const { size } = await file.stat();
        if (size > maxBytes) {
          throw new BlobStoreError('too-large', `repository file ${place.path}: ${size} bytes, at most ${maxBytes}`, {
            key,
          });
        }
        return await file.readFile();
      }),

    statBlob: (key) =>
      access('read', key, async (place) => {
        const info = await statFile(place);
        return info && (await tokenOf(place)) === undefined ? info : undefined;
      }),

    listBlobs: (prefix) => list(prefix, 'blobs'),
    listUploads: (prefix) => list(prefix, 'uploads'),

    discardUploads: (key) =>
      access('write', key, async (place) => {
        if ((await tokenOf(place)) !== undefined) await removeBlob(base, place);
      }),

    deleteBlob: (key) => access('write', key, (place) => removeBlob(base, place)),

    moveBlob: (from, to) =>
      access('write', to, async (place) => {
        const source = placeOf(base, from);
        await assertPlainFolders(source);
        if (!(await statFile(source)) || (await tokenOf(source)) !== undefined) {
          throw new BlobStoreError('not-found', `repository file ${source.path} is not there`, { key: from });
        }
        await statFile(place); // refuses what is no plain file
        await inFolder(place, () => rename(source.path, place.path));
        await syncFolders(base, place);
        if (source.folder !== place.folder) await syncSurvivingFolder(base, source, await removeEmptyFolders(source));
      }),

    source: (key) => ({ kind: 'file', path: placeOf(base, key).path, blobKey: key }),

    freeSpaceBytes,
  };
}

/** Creates a file that must not exist, with its content on stable storage. The folder entry is not. */
async function writeNew(path: string, content: string | Uint8Array): Promise<void> {
  await using file = await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, FILE_MODE);
  await file.writeFile(content);
  await file.sync();
}

/** Gives a finished temporary file its name, unless another content has it. */
async function publishNew(temporary: string, place: BlobPlace, content: Uint8Array): Promise<void> {
  try {
    await link(temporary, place.path);
  } catch (error) {
    const errno = errnoOf(error) ?? '';
    if (errno === 'EEXIST') {
      const present = await readFile(place.path, { flag: O_RDONLY | O_NOFOLLOW });
      // The same bytes: an earlier attempt whose answer was lost (NFS may also repeat a link that was made).
      if (present.equals(content)) return;
      throw new BlobStoreError('exists', `repository file ${place.path} exists with other content`, {
        key: place.key,
        cause: error,
      });
    }
    if (!NO_HARD_LINKS.has(errno)) throw error;
    if (await statFile(place)) {
      throw new BlobStoreError('exists', `repository file ${place.path} exists`, { key: place.key, cause: error });
    }
    await rename(temporary, place.path); // not exclusive against a racing writer; such file systems have no better
  }
}

async function finishUpload(base: string, place: BlobPlace, totalBytes: number): Promise<void> {
  {
    await using file = await open(place.path, constants.O_RDWR | O_NOFOLLOW);
    const { size } = await file.stat();
    if (size < totalBytes) {
      throw new BlobStoreError(
        'unavailable',
        `repository file ${place.path}: ${size} bytes of ${totalBytes} are there; bytes written were lost`,
        { key: place.key },
      );
    }
    if (size > totalBytes) await file.truncate(totalBytes);
    await file.sync();
  }
  await syncFolders(base, place);
  await removeFile(join(place.folder, UPLOAD_PREFIX + place.name));
  await syncFolders(base, place);
}

/** Durable before it returns: a manifest that is deleted must not come back after its files are gone. */
async function removeBlob(base: string, place: BlobPlace): Promise<void> {
  const removed = await removeFile(place.path);
  const sidecar = await removeFile(join(place.folder, UPLOAD_PREFIX + place.name));
  if (!removed && !sidecar) return;
  await removeLeftovers(place.folder);
  await syncSurvivingFolder(base, place, await removeEmptyFolders(place));
}

async function statFile(place: BlobPlace): Promise<BlobInfo | undefined> {
  const info = await lstat(place.path).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (info === undefined) return undefined;
  if (!info.isFile()) {
    throw new BlobStoreError('invalid-key', `repository file ${place.path} is not a plain file`, { key: place.key });
  }
  return { key: place.key, sizeBytes: info.size, modifiedMs: info.mtimeMs };
}

/** The token of an unfinished upload; undefined when the blob is finished or absent. */
async function tokenOf(place: BlobPlace): Promise<string | undefined> {
  try {
    await using file = await open(join(place.folder, UPLOAD_PREFIX + place.name), O_RDONLY | O_NOFOLLOW);
    const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(64), position: 0 });
    return buffer.toString('latin1', 0, bytesRead);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** Sorted by name within each folder. What disappears meanwhile is left out, unless the whole repository does. */
async function* listFolder(base: string, folder: string, what: 'blobs' | 'uploads'): AsyncGenerator<BlobInfo> {
  await assertRoot(base);
  const path = join(base, folder);
  const entries = await readdir(path, { withFileTypes: true }).catch(async (error: unknown) => {
    if (errnoOf(error) === 'ENOENT') {
      await assertRoot(base);
      return [];
    }
    throw storeErrorOf(error, { act: 'read', key: folder, path });
  });
  const keyOf = (name: string): string => (folder === '' ? name : `${folder}/${name}`);
  const infoOf = (name: string) =>
    lstat(join(path, name)).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw storeErrorOf(error, { act: 'read', key: keyOf(name), path: join(path, name) });
    });
  const isKey = (name: string): boolean => fileName.safeParse(name).success;
  const names = new Set(entries.map((entry) => entry.name));
  for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
    const { name } = entry;
    if (entry.isDirectory() && isKey(name)) {
      yield* listFolder(base, keyOf(name), what);
    } else if (what === 'uploads') {
      const own = name.slice(UPLOAD_PREFIX.length);
      if (!entry.isFile() || !name.startsWith(UPLOAD_PREFIX) || !isKey(own)) continue;
      const [token, file] = [await infoOf(name), await infoOf(own)];
      const modifiedMs = Math.max(token?.mtimeMs ?? 0, file?.mtimeMs ?? 0);
      if (token !== undefined) yield { key: keyOf(own), sizeBytes: file?.size ?? 0, modifiedMs };
    } else if (entry.isFile() && isKey(name) && !names.has(UPLOAD_PREFIX + name)) {
      // Else no key: hidden files, and what others put beside ours, like lost+found.
      const info = await infoOf(name);
      if (info?.isFile()) yield { key: keyOf(name), sizeBytes: info.size, modifiedMs: info.mtimeMs };
    }
  }
}
