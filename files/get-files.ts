import { randomBytes } from 'node:crypto';
import { chmod, link, mkdir, rename, rm, utimes } from 'node:fs/promises';
import { basename, dirname, join, posix, resolve } from 'node:path';
import type { Writable } from 'node:stream';
import { HoldfastError } from '../schemas/failures.ts';
import { extractTree, type Extracted } from './extract-tree.ts';
import type { Guestfish } from './guestfish.ts';
import { lstatIfThere, statIfThere } from '../activities/host/stat-if-there.ts';
import { fileAt } from './list-files.ts';
import { shownName } from './shown-name.ts';
import { writeSparse } from './write-sparse.ts';

export interface GotFiles extends Extracted {
  /** In the backup. */
  path: string;
  /** Where it lies now. */
  to: string;
}

/**
 * Where a path of the backup goes: into a folder that is there, under its own name; or to the name that is given.
 * @throws HoldfastError DestinationExists; InvalidRequest when there is no name
 */
export async function placeFor(path: string, to: string | undefined, { force }: { force: boolean }): Promise<string> {
  const name = posix.basename(posix.resolve('/', path));
  const given = resolve(to ?? '.');
  const isFolder = (await statIfThere(given))?.isDirectory() ?? false;
  if (isFolder && name === '') {
    throw new HoldfastError('InvalidRequest', 'the root of a file system has no name of its own: say where with --to');
  }
  const place = isFolder ? join(given, name) : given;
  const info = await lstatIfThere(place);
  if (info === undefined || (force && info.isFile())) return place;
  throw new HoldfastError(
    'DestinationExists',
    info.isFile()
      ? `${place} exists already; --force writes over it`
      : `${place} exists already, and is no file that could be written over`,
  );
}

/**
 * Brings a file, or a directory with all that is in it, to a place where nothing lies. It is written beside, under a name of
 * its own, and gets its name when it is whole.
 * @param path symbolic links in it are followed inside the backup
 * @throws HoldfastError FileNotFound, FilesNotReadable, DestinationExists
 */
export async function getFiles(
  fish: Guestfish,
  path: string,
  place: string,
  { force }: { force: boolean },
): Promise<GotFiles> {
  const facts = await fileAt(fish, path);
  const beside = join(dirname(place), `.${basename(place)}.${randomBytes(6).toString('hex')}.part`);
  try {
    let extracted: Extracted;
    if (facts.type === 'directory') {
      await mkdir(beside, { mode: 0o700 });
      extracted = await extractTree(fish.read('tar-out', path), beside);
      if ((await lstatIfThere(place)) !== undefined) throw exists(place);
      await rename(beside, place);
    } else {
      requireFile(facts.type, path);
      const bytes = await writeSparse(beside, fish.read('download', path));
      if (bytes !== facts.sizeBytes) throw cutShort(path, bytes, facts.sizeBytes);
      await chmod(beside, facts.mode & 0o777);
      const modified = new Date(facts.modified);
      await utimes(beside, modified, modified);
      await named(beside, place, force);
      extracted = { files: 1, directories: 0, links: 0, bytes, skipped: [] };
    }
    return { path, to: place, ...extracted };
  } finally {
    await rm(beside, { recursive: true, force: true });
  }
}

/** Writes a file's bytes to a stream; of a directory an archive of GNU tar, with owners and all, as the guest has it. */
export async function streamFiles(fish: Guestfish, path: string, to: Writable): Promise<void> {
  const { type } = await fileAt(fish, path);
  if (type !== 'directory') requireFile(type, path);
  for await (const chunk of fish.read(type === 'directory' ? 'tar-out' : 'download', path)) {
    await new Promise<void>((written, failed) => {
      to.write(chunk, (error) => (error == null ? written() : failed(error)));
    });
  }
}

async function named(beside: string, place: string, force: boolean): Promise<void> {
  if (force) {
    await rename(beside, place);
    return;
  }
  await link(beside, place).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') throw exists(place);
    throw error;
  });
}

function requireFile(type: string, path: string): void {
  if (type === 'file') return;
  const what = type === 'symlink' ? 'a symbolic link that leads nowhere' : `a ${type}`;
  throw new HoldfastError('FilesNotReadable', `${shownName(Buffer.from(path))} is ${what}: it has no content to get`);
}

const exists = (place: string): HoldfastError =>
  new HoldfastError('DestinationExists', `${place} came into being meanwhile; it was left alone`);

const cutShort = (path: string, bytes: number, sizeBytes: number): HoldfastError =>
  new HoldfastError(
    'FilesNotReadable',
    `of ${shownName(Buffer.from(path))} ${bytes} of ${sizeBytes} bytes could be read; nothing was kept`,
  );
