import type { Stats } from 'node:fs';
import { lstat, stat } from 'node:fs/promises';
import { isNotFound } from './json-notes.ts';

/** undefined when nothing is there; whatever else keeps it from being looked at is thrown. */
export const statIfThere = (path: string): Promise<Stats | undefined> => stat(path).catch(onlyNotFound);

/** The same, of a symbolic link itself. */
export const lstatIfThere = (path: string): Promise<Stats | undefined> => lstat(path).catch(onlyNotFound);

function onlyNotFound(error: unknown): undefined {
  if (!isNotFound(error)) throw error;
}
