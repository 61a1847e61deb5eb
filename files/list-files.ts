import { HoldfastError } from '../schemas/failures.ts';
import type { Guestfish } from './guestfish.ts';
import { shownName } from './shown-name.ts';

export type FileType = 'file' | 'directory' | 'symlink' | 'device' | 'pipe' | 'socket';

/** A file inside a backup, as its inode says. */
export interface FileFacts {
  type: FileType;
  sizeBytes: number;
  /** Permissions with setuid, setgid and sticky: 0o7777. */
  mode: number;
  uid: number;
  gid: number;
  modified: string;
}

export interface ListedFile extends FileFacts {
  /** From the root of what is mounted. The bytes, because names need not be text. */
  path: Buffer;
  /** What a symbolic link holds. */
  link: Buffer | null;
}

const TYPES = new Map<number, FileType>([
  [0o100000, 'file'],
  [0o040000, 'directory'],
  [0o120000, 'symlink'],
  [0o060000, 'device'],
  [0o020000, 'device'],
  [0o010000, 'pipe'],
  [0o140000, 'socket'],
]);
const TYPE_BITS = 0o170000;
const SLASH = 0x2f;

/** Names that are asked about at once: a message to the small VM has at most 4 MiB. Source: guestfs(3), "PROTOCOL LIMITS" */
const AT_ONCE = 500;

/** What is at a path; a symbolic link is followed, inside the backup, if it leads somewhere. @throws HoldfastError FileNotFound */
export async function fileAt(fish: Guestfish, path: string): Promise<FileFacts> {
  const isSo = async (...question: [string, ...string[]]): Promise<boolean> =>
    (await fish.ask(...question)).toString().trim() === 'true';
  if (await isSo('is-symlink', path)) {
    const leadsSomewhere =
      (await isSo('is-file', path, 'followsymlinks:true')) || (await isSo('is-dir', path, 'followsymlinks:true'));
    return factsOf(await fish.ask(leadsSomewhere ? 'statns' : 'lstatns', path), path);
  }
  if (await isSo('exists', path)) return factsOf(await fish.ask('lstatns', path), path);
  throw new HoldfastError('FileNotFound', `the backup has no ${shownName(Buffer.from(path))}`);
}

/**
 * What lies in a directory, in the order of the names' bytes; what is no directory is listed itself.
 * @param isRecursive also what lies in the directories in it, through no symbolic link
 */
export async function listFiles(
  fish: Guestfish,
  path: string,
  { isRecursive }: { isRecursive: boolean },
): Promise<ListedFile[]> {
  const top = await fileAt(fish, path);
  if (top.type !== 'directory') return [{ path: Buffer.from(path), link: null, ...top }];
  const root = Buffer.from(path === '/' ? '' : path.replace(/\/+$/, ''));
  const folders = new Map<string, Buffer[]>();
  for (const name of await namesIn(fish, path, isRecursive)) {
    const at = name.lastIndexOf(SLASH);
    const folder = Buffer.concat([root, Buffer.from('/'), name.subarray(0, Math.max(at, 0))]).toString('latin1');
    folders.set(folder, [...(folders.get(folder) ?? []), name.subarray(at + 1)]);
  }
  const found: ListedFile[] = [];
  for (const [folder, names] of folders) {
    for (let at = 0; at < names.length; at += AT_ONCE) {
      found.push(...(await factsOfEach(fish, Buffer.from(folder, 'latin1'), names.slice(at, at + AT_ONCE))));
    }
  }
  return found.sort((a, b) => Buffer.compare(a.path, b.path));
}

/** Of what lies in a directory, the paths from there. */
async function namesIn(fish: Guestfish, path: string, isRecursive: boolean): Promise<Buffer[]> {
  const chunks: Buffer[] = [];
  for await (const chunk of fish.read(isRecursive ? 'find0' : 'ls0', path)) chunks.push(chunk);
  const names: Buffer[] = [];
  const all = Buffer.concat(chunks);
  for (let at = 0; at < all.length;) {
    const end = all.indexOf(0, at);
    const name = all.subarray(at, end === -1 ? all.length : end);
    names.push(name[0] === SLASH ? name.subarray(1) : name); // `find0` begins its paths so, but for those of the root
    at += name.length + 1;
  }
  return names;
}

/** Of the names in one directory by one question; those that its list cannot hold are asked about one by one. */
async function factsOfEach(fish: Guestfish, folder: Buffer, names: readonly Buffer[]): Promise<ListedFile[]> {
  const isListable = (name: Buffer): boolean => !name.includes("'") && !name.includes('\\');
  const listable = names.filter(isListable);
  const list = Buffer.concat(listable.flatMap((name) => [Buffer.from("'"), name, Buffer.from("' ")]));
  const answer = listable.length === 0 ? '' : (await fish.ask('lstatnslist', folder, list)).toString();
  const answers = answer.split(/^\[\d+\] = \{$/m).slice(1);
  if (answers.length !== listable.length) {
    throw new HoldfastError('FilesNotReadable', `libguestfs told of ${answers.length} of ${listable.length} files`);
  }
  let next = 0;
  return await Promise.all(
    names.map(async (name) => {
      const path = Buffer.concat([folder, Buffer.from(folder.at(-1) === SLASH ? '' : '/'), name]);
      const facts = factsOf(isListable(name) ? (answers[next++] ?? '') : await fish.ask('lstatns', path), path);
      return { path, ...facts, link: facts.type === 'symlink' ? await linkAt(fish, path) : null };
    }),
  );
}

async function linkAt(fish: Guestfish, path: Buffer): Promise<Buffer> {
  return (await fish.ask('readlink', path)).subarray(0, -1); // without the line's end that is printed after it
}

/** Lines like `st_mode: 33188`. Source: guestfs(3), "guestfs_statns" */
function factsOf(printed: string | Buffer, path: string | Buffer): FileFacts {
  const numbers = new Map<string, number>();
  for (const [, name, value] of printed.toString().matchAll(/^\s*st_(\w+): (-?\d+)$/gm)) {
    numbers.set(name ?? '', Number(value));
  }
  const number = (name: string): number => {
    const value = numbers.get(name);
    if (value !== undefined) return value;
    throw new HoldfastError('FilesNotReadable', `libguestfs does not tell ${name} of ${shownName(Buffer.from(path))}`);
  };
  const type = TYPES.get(number('mode') & TYPE_BITS);
  if (type === undefined) {
    throw new HoldfastError('FilesNotReadable', `${shownName(Buffer.from(path))} cannot be read: its inode is damaged`);
  }
  return {
    type,
    sizeBytes: number('size'),
    mode: number('mode') & ~TYPE_BITS,
    uid: number('uid'),
    gid: number('gid'),
    modified: instant(number('mtime_sec')),
  };
}

/** A file's time is what somebody wrote there: one beyond what a date can hold is the last that it can. */
function instant(seconds: number): string {
  const LAST_SECONDS = 8_640_000_000_000; // ECMA-262, "Time Values and Time Range"
  return new Date(Math.max(-LAST_SECONDS, Math.min(LAST_SECONDS, seconds)) * 1000).toISOString();
}
