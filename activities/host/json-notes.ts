import { mkdir, open, readdir, readFile, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { z } from 'zod';
import { uuid } from '../../schemas/names.ts';

/** A note that is not there is undefined; one that is damaged throws. */
export async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if (isNotFound(error)) return undefined;
    throw error;
  });
  return text === undefined ? undefined : schema.parse(JSON.parse(text));
}

/** Whole or not at all, also through a power cut. */
export async function writeJson(folder: string, name: string, content: unknown): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const temporary = join(folder, `.${name}.tmp`);
  {
    await using file = await open(temporary, 'w', 0o600);
    await file.writeFile(JSON.stringify(content));
    await file.sync();
  }
  await rename(temporary, join(folder, name));
}

export const isNotFound = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'ENOENT';

/** The folders of a root that are named by a UUID, with the time of their last change in milliseconds since 1970. */
export async function listIds(root: string): Promise<{ id: string; touchedMs: number }[]> {
  const names = await readdir(root).catch((error: unknown) => {
    if (isNotFound(error)) return [];
    throw error;
  });
  const ids = names.filter((name) => uuid.safeParse(name).success);
  return await Promise.all(ids.map(async (id) => ({ id, touchedMs: (await stat(join(root, id))).mtimeMs })));
}
