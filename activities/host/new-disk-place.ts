import { readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { DomainDefinition } from '../../libvirt/domain-xml.ts';
import { isNotFound } from './json-notes.ts';
import { DEFAULT_FOLDER, NOT_FOR_DISKS } from './restore-targets.ts';

/** Where further disks of a VM go: beside those it has. */
export function folderOf(definitions: readonly DomainDefinition[]): string {
  const files = definitions
    .flatMap(({ disks }) => disks)
    .filter(({ device, sourceType, sourcePath }) => device === 'disk' && sourceType === 'file' && sourcePath !== null);
  const path = files[0]?.sourcePath ?? null;
  return path === null || NOT_FOR_DISKS.test(path) ? DEFAULT_FOLDER : dirname(path);
}

/** The name, or one with a number: also another restore's file that is being written has it. */
export async function unusedPath(folder: string, name: string): Promise<string> {
  const there = await readdir(folder).catch((error: unknown) => {
    if (isNotFound(error)) return [];
    throw error;
  });
  const dot = name.lastIndexOf('.');
  for (let number = 1; ; number += 1) {
    const candidate = number === 1 ? name : `${name.slice(0, dot)}-${number}${name.slice(dot)}`;
    if (!there.some((file) => file === candidate || file.startsWith(`${candidate}.`))) return join(folder, candidate);
  }
}
