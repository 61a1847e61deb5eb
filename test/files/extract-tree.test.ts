import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { extractTree } from '../../files/extract-tree.ts';
import { tempDir } from '../support/temp.ts';

describe('extractTree', () => {
  let dir: Awaited<ReturnType<typeof tempDir>>;
  let out: string;
  beforeEach(async () => {
    dir = await tempDir();
    out = join(dir.path, 'out');
    mkdirSync(out);
  });
  afterEach(() => dir[Symbol.asyncDispose]());

  it.each([1, 7, 512, 1000, 1 << 20])('writes what GNU tar packed, given in pieces of %d bytes', async (pieceBytes) => {
    const tree = join(dir.path, 'tree');
    await mkdir(join(tree, 'a', 'b'.repeat(150)), { recursive: true });
    await writeFile(join(tree, 'a', 'b'.repeat(150), 'file'), 'content'.repeat(200));
    await writeFile(join(tree, 'a', 'c'.repeat(120)), '');
    await symlink('d'.repeat(150), join(tree, 'a', 'link'));
    execFileSync('ln', [join(tree, 'a', 'c'.repeat(120)), join(tree, 'z')]);
    const archive = execFileSync('tar', ['-C', tree, '-cf', '-', '.']);
    const { files, directories, links, bytes, skipped } = await extractTree(pieces(archive, pieceBytes), out);
    expect({ files, directories, links, bytes, skipped }).toEqual({
      ...{ files: 3, directories: 2, links: 1, bytes: 1400, skipped: [] },
    });
    expect(readFileSync(join(out, 'a', 'b'.repeat(150), 'file'), 'utf8')).toBe('content'.repeat(200));
    expect(readlinkSync(join(out, 'a', 'link'))).toBe('d'.repeat(150));
    expect(lstatSync(join(out, 'z')).ino).toBe(lstatSync(join(out, 'a', 'c'.repeat(120))).ino);
  });

  it.each([
    ['a parent', [member({ path: '../evil' })]],
    ['a parent on the way', [member({ path: 'a', type: '5' }), member({ path: 'a/../../evil' })]],
    ['a path from the root', [member({ path: '/tmp/evil' })]],
    ['a symbolic link as a directory', [member({ path: 'a', type: '2', link: '..' }), member({ path: 'a/evil' })]],
    ['a hard link to what is outside', [member({ path: 'a', type: '1', link: '../secret' })]],
    [
      'a hard link through a symbolic link',
      [member({ path: 'a', type: '2', link: '..' }), member({ path: 'evil', type: '1', link: 'a/secret' })],
    ],
  ])('refuses %s', async (_, members) => {
    await writeFile(join(dir.path, 'secret'), 'secret');
    await expect(extractTree(archiveOf(members), out)).rejects.toThrow('leads out of its directory');
    expect(existsSync(join(dir.path, 'evil'))).toBe(false);
    expect(readdirSync(dir.path).sort()).toEqual(['out', 'secret']);
  });

  it('makes no device, and drops what would lend rights', async () => {
    const members = [
      member({ path: 'disk', type: '4' }),
      member({ path: 'fifo', type: '6' }),
      member({ path: 'tool', mode: 0o6755, content: 'x' }),
    ];
    expect(await extractTree(archiveOf(members), out)).toMatchObject({ files: 1, skipped: ['disk', 'fifo'] });
    expect(readdirSync(out)).toEqual(['tool']);
    expect(lstatSync(join(out, 'tool')).mode & 0o7777).toBe(0o755);
  });

  it('says so when the archive ends in the middle, or is none', async () => {
    const whole = Buffer.concat([member({ path: 'file', content: 'x'.repeat(2000) }), Buffer.alloc(1024)]);
    await expect(extractTree(pieces(whole.subarray(0, 900), 512), out)).rejects.toThrow('its end comes too early');
    await expect(extractTree(pieces(Buffer.alloc(512, 'x'), 512), join(dir.path, 'out'))).rejects.toThrow(
      'cannot be read',
    );
  });
});

async function* pieces(bytes: Buffer, pieceBytes: number): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
}

const archiveOf = (members: Buffer[]): AsyncGenerator<Buffer> =>
  pieces(Buffer.concat([...members, Buffer.alloc(1024)]), 4096);

/** A member as tar writes it, also such as tar would never write. */
function member({
  path,
  type = '0',
  link = '',
  mode = 0o644,
  content = '',
}: {
  path: string;
  type?: string;
  link?: string;
  mode?: number;
  content?: string;
}): Buffer {
  const header = Buffer.alloc(512);
  const octal = (value: number, length: number) => `${value.toString(8).padStart(length - 1, '0')}\0`;
  header.write(path, 0);
  header.write(octal(mode, 8), 100);
  header.write(octal(content.length, 12), 124);
  header.write(octal(1_700_000_000, 12), 136);
  header.write(' '.repeat(8), 148);
  header.write(type, 156);
  header.write(link, 157);
  header.write('ustar  \0', 257);
  header.write(
    octal(
      header.reduce((sum, byte) => sum + byte, 0),
      7,
    ),
    148,
  );
  const padded = Buffer.alloc(Math.ceil(content.length / 512) * 512);
  padded.write(content);
  return Buffer.concat([header, padded]);
}
