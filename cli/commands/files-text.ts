import type { FileType, ListedFile } from '../../files/list-files.ts';
import { shownName } from '../../files/shown-name.ts';

const LETTERS: Record<FileType, string> = {
  file: '-',
  directory: 'd',
  symlink: 'l',
  device: 'c',
  pipe: 'p',
  socket: 's',
};

/** A line of a listing. @param from the directory that was listed: paths are shown from there on */
export function fileText(file: ListedFile, from: string, { isLong }: { isLong: boolean }): string {
  const { path, type, mode, uid, gid, sizeBytes, modified, link } = file;
  const folder = Buffer.from(from.endsWith('/') ? from : `${from}/`);
  const isInside = path.subarray(0, folder.length).equals(folder);
  const name = shownName(isInside ? path.subarray(folder.length) : path);
  if (!isLong) return type === 'directory' ? `${name}/` : name;
  const owner = `${uid}:${gid}`.padEnd(11);
  return `${LETTERS[type]}${permissions(mode)}  ${owner}  ${String(sizeBytes).padStart(12)}  ${modified}  ${name}${
    link === null ? '' : ` -> ${shownName(link)}`
  }`;
}

/** 0o4755 → `rwsr-xr-x`. */
export function permissions(mode: number): string {
  const letters = Array.from('rwxrwxrwx', (letter, index) => ((mode >> (8 - index)) & 1 ? letter : '-'));
  for (const [bit, at, set] of [
    [0o4000, 2, 's'],
    [0o2000, 5, 's'],
    [0o1000, 8, 't'],
  ] as const) {
    if ((mode & bit) !== 0) letters[at] = letters[at] === 'x' ? set : set.toUpperCase();
  }
  return letters.join('');
}
