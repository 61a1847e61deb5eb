import { chmod, chown, link, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { DiskToRestore } from '../../schemas/restore-plan.ts';
import { isNotFound } from './json-notes.ts';
import { fileId, publishFile, removeFile, syncFolder } from './publish-file.ts';

/**
 * Puts a written disk in its place. A hard link keeps the former disk while a rename puts the new one there: there is no
 * moment without a disk. Repeatable.
 * @throws HoldfastError DestinationExists when a new disk's place was taken meanwhile
 */
export async function swapIn({ path, besidePath, formerPath, isNew }: DiskToRestore): Promise<void> {
  if ((await fileId(besidePath)) === undefined) return; // swapped by an earlier attempt
  if (isNew === true) {
    await chmod(besidePath, 0o600);
    await publishFile(besidePath, path);
    return;
  }
  const former = await stat(path).catch((error: unknown) => {
    if (isNotFound(error)) return undefined;
    throw error;
  });
  if (former === undefined) await chmod(besidePath, 0o600);
  else {
    await chown(besidePath, former.uid, former.gid);
    await chmod(besidePath, former.mode & 0o7777);
    if ((await fileId(formerPath)) === undefined) await link(path, formerPath);
  }
  await rename(besidePath, path);
  await syncFolder(dirname(path));
}

/**
 * Puts the former disk back where the written one is, and removes what was written. What lies there by somebody else's
 * doing since is left alone. Repeatable.
 * @param id of the file that was written
 */
export async function swapBack({ path, besidePath, formerPath }: DiskToRestore, id: string | undefined): Promise<void> {
  const [former, now] = [await fileId(formerPath), await fileId(path)];
  const isOurs = now === undefined || id === undefined || now === id;
  if (former === undefined) await removeFile(path, id);
  else if (isOurs && former !== now) await rename(formerPath, path);
  await rm(besidePath, { force: true });
  await syncFolder(dirname(path)).catch((error: unknown) => {
    if (!isNotFound(error)) throw error;
  });
}
