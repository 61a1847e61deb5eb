import { chmod, link, lutimes, mkdir, symlink, utimes } from 'node:fs/promises';
import { HoldfastError } from '../schemas/failures.ts';
import { readTar } from './read-tar.ts';
import { shownName } from './shown-name.ts';
import { writeSparse } from './write-sparse.ts';

export interface Extracted {
  files: number;
  directories: number;
  links: number;
  bytes: number;
  /** What cannot be had outside a guest: devices, pipes, sockets. As people may see them. */
  skipped: string[];
}

/**
 * Writes an archive of a directory of a guest into a folder that is empty and nobody else's. Nothing of a guest can lead out
 * of it: names are checked, each thing is made anew in a directory that was made here, and symbolic links, which hold what
 * they held in the guest, come into being last, when nothing is written any more. Owners stay behind, and with them setuid,
 * setgid and sticky.
 */
export async function extractTree(archive: AsyncIterable<Buffer>, folder: string): Promise<Extracted> {
  const extracted: Extracted = { files: 0, directories: 0, links: 0, bytes: 0, skipped: [] };
  const directories: { path: Buffer; mode: number; modifiedSeconds: number }[] = [];
  const symlinks: { path: Buffer; target: Buffer; modifiedSeconds: number }[] = [];
  const made = new Map<string, 'file' | 'directory'>([[key(Buffer.from('.')), 'directory']]);
  for await (const member of readTar(archive)) {
    const { type, mode, modifiedSeconds } = member;
    const parts = safeParts(member.path);
    const path = within(folder, parts);
    const name = key(member.path);
    if (parts.length > 0 && made.get(parentKey(parts)) !== 'directory') throw unsafe(member.path);
    if (type === 'directory') {
      if (parts.length > 0) {
        await mkdir(path, { mode: 0o700 });
        extracted.directories += 1;
      }
      made.set(name, 'directory');
      directories.push({ path, mode, modifiedSeconds });
    } else if (type === 'file') {
      extracted.bytes += await writeSparse(path, member.content);
      await chmod(path, mode & 0o777);
      await utimes(path, modifiedSeconds, modifiedSeconds);
      made.set(name, 'file');
      extracted.files += 1;
    } else if (type === 'hardlink') {
      if (made.get(key(member.link)) !== 'file') throw unsafe(member.link);
      await link(within(folder, safeParts(member.link)), path);
      made.set(name, 'file');
      extracted.files += 1;
    } else if (type === 'symlink') {
      symlinks.push({ path, target: member.link, modifiedSeconds });
    } else {
      extracted.skipped.push(shownName(member.path));
    }
  }
  for (const { path, target, modifiedSeconds } of symlinks) {
    await symlink(target, path);
    await lutimes(path, modifiedSeconds, modifiedSeconds);
    extracted.links += 1;
  }
  for (const { path, mode, modifiedSeconds } of directories.toReversed()) {
    await chmod(path, mode & 0o777);
    await utimes(path, modifiedSeconds, modifiedSeconds);
  }
  return extracted;
}

/** A path's names, without `.`; `..` is none, and a path from the root is none either. */
function safeParts(path: Buffer): Buffer[] {
  const parts = split(path).filter((part) => part.length > 0 && part.toString('latin1') !== '.');
  if (path[0] === 0x2f || parts.some((part) => part.toString('latin1') === '..' || part.includes(0)))
    throw unsafe(path);
  return parts;
}

function split(path: Buffer): Buffer[] {
  const parts: Buffer[] = [];
  for (let at = 0; at <= path.length;) {
    const end = path.indexOf(0x2f, at);
    parts.push(path.subarray(at, end === -1 ? path.length : end));
    at = end === -1 ? path.length + 1 : end + 1;
  }
  return parts;
}

const within = (folder: string, parts: readonly Buffer[]): Buffer =>
  Buffer.concat([Buffer.from(folder), ...parts.flatMap((part) => [Buffer.from('/'), part])]);

const key = (path: Buffer): string => keyOf(safeParts(path));
const parentKey = (parts: readonly Buffer[]): string => keyOf(parts.slice(0, -1));
const keyOf = (parts: readonly Buffer[]): string => parts.map((part) => part.toString('latin1')).join('/');

const unsafe = (path: Buffer): HoldfastError =>
  new HoldfastError('FilesNotReadable', `the path ${shownName(path)} in the backup leads out of its directory`);
