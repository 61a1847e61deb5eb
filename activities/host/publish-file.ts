import { link, lstat, open, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { HoldfastError } from '../../schemas/failures.ts';
import { isNotFound } from './json-notes.ts';

/** What tells one file from any other on a machine, whatever it is called. */
export async function fileId(path: string): Promise<string | undefined> {
  const info = await lstat(path).catch((error: unknown) => {
    if (isNotFound(error)) return undefined;
    throw error;
  });
  return info === undefined ? undefined : `${info.dev}:${info.ino}`;
}

/**
 * Gives a file that was written beside its name, where nothing may lie. Repeatable.
 * @throws HoldfastError DestinationExists when another file has the name
 */
export async function publishFile(besidePath: string, path: string): Promise<void> {
  const own = await fileId(besidePath);
  if (own === undefined) return; // done by an earlier attempt
  await link(besidePath, path).catch(async (error: unknown) => {
    if (!isExists(error)) throw error;
    if ((await fileId(path)) === own) return;
    throw new HoldfastError('DestinationExists', `${path} came into being meanwhile; it was left alone`);
  });
  await rm(besidePath);
  await syncFolder(dirname(path));
}

/** Removes the file if it is the one that is meant, and nobody else's of that name. */
export async function removeFile(path: string, id: string | undefined): Promise<void> {
  if (id === undefined || (await fileId(path)) !== id) return;
  await rm(path, { force: true });
  await syncFolder(dirname(path));
}

export async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, 'r');
  await folder.sync();
}

const isExists = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'EEXIST';
