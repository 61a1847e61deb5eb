import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { mkdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { hasKernel } from '../../files/guestfish.ts';
import { listFileSystems, mountFileSystems } from '../../files/file-systems.ts';
import { getFiles, placeFor } from '../../files/get-files.ts';
import { fileAt, listFiles } from '../../files/list-files.ts';
import { openFiles, type OpenFiles } from '../../files/open-files.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import type { Backup } from '../../schemas/backup.ts';
import { makeFileSystemImages, makeTree } from '../support/file-system-images.ts';
import { kindsOf, MiB, startTestBed, type TestBed } from '../support/test-bed.ts';

const missing = await missingTools();

/** Disks of a stopped VM, first blank, then with file systems that were in use: the increment holds all of them. */
describe.skipIf(missing !== undefined)(`files of a backup${missing === undefined ? '' : ` (needs ${missing})`}`, () => {
  let bed: TestBed;
  let backup: Backup;
  let tree: string;
  let large: string;
  let opened: OpenFiles;

  beforeAll(async () => {
    bed = await startTestBed('files');
    tree = join(bed.dir, 'tree');
    large = join(bed.dir, 'large');
    await mkdir(tree);
    await makeTree(tree);
    await writeFile(large, randomBytes(6 * MiB + 123));
    const images = await makeFileSystemImages(bed.dir, { tree, large });
    const guest = await bed.guest({
      name: 'files',
      disks: Object.entries<string>({ ...images }).map(([target, path]) => ({
        target,
        sizeBytes: statSync(path).size,
        format: 'qcow2',
        fs: 'none',
      })),
    });
    await bed.take('files');
    for (const { target, path } of guest.disks) {
      const image = images[target as keyof typeof images];
      execFileSync('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'qcow2', image, path]);
    }
    backup = await bed.take('files');
    opened = await openFiles(
      openBlobStore({ kind: 'directory', path: bed.holdfast.repositoryDir }),
      { vmUuid: backup.vm.uuid, backupId: backup.id },
      {
        keys: null,
        onProblem(error) {
          throw error;
        },
        signal: AbortSignal.timeout(300_000),
      },
    );
  }, 400_000);

  afterAll(async () => {
    await opened[Symbol.asyncDispose]();
    await bed[Symbol.asyncDispose]();
  }, 60_000);

  const got = (name: string): string => join(bed.dir, `got-${name}`);
  it('finds the file systems of an increment, in partitions and in a logical volume over two disks', async () => {
    expect(Object.values(kindsOf(backup))).toEqual(Array(4).fill('incremental'));
    const found = await listFileSystems(opened.fish, opened.targets);
    expect(found.map(({ name, type, label }) => ({ name, type, label }))).toEqual(
      expect.arrayContaining([
        { name: 'vda1', type: 'ext4', label: 'root' },
        { name: 'vda2', type: 'xfs', label: null },
        { name: 'vdb', type: 'ntfs', label: null },
        { name: 'vg0/data', type: 'ext4', label: null },
      ]),
    );
  });

  it('gets files of LVM, ntfs and xfs with every byte, though the file systems were in use', async () => {
    for (const fileSystem of ['vg0/data', 'vdb', 'vda2']) {
      await opened.fish.ask('umount-all');
      await mountFileSystems(opened.fish, opened.targets, { fileSystem });
      const to = got(`large-${fileSystem.replace('/', '-')}`);
      await getFiles(opened.fish, '/large', to, { force: false });
      expect(sha256(to), fileSystem).toBe(sha256(large));
      if (fileSystem === 'vdb') await getFiles(opened.fish, '/Users/Änne', got('Änne'), { force: false });
    }
    expect(readFileSync(join(got('Änne'), 'notes.txt'), 'utf8')).toBe('as it was written\r\n');
  });

  // From here on xfs is mounted, which the tests before left so.
  it('gets a directory with all names, links, holes and permissions, and leaves out what is no file', async () => {
    const { skipped, files, links } = await getFiles(opened.fish, '/tree', got('tree'), { force: false });
    expect({ skipped, files, links }).toEqual({ skipped: ['./pipe'], files: 9, links: 3 });
    expect(contentsOf(got('tree'))).toEqual(contentsOf(tree).filter(({ path }) => path !== 'pipe'));
    expect(lstatSync(join(got('tree'), 'sparse')).blocks * 512).toBeLessThan(MiB);
    expect(lstatSync(join(got('tree'), 'deep', 'er', 'plain.txt')).mode & 0o7777).toBe(0o750);
  });

  it('lists every name as its bytes are', async () => {
    const listed = await listFiles(opened.fish, '/tree', { isRecursive: true });
    expect(listed.map(({ path }) => path.toString('latin1'))).toEqual(
      contentsOf(tree).map(({ path }) => `/tree/${path}`),
    );
    expect(listed.find(({ path }) => path.toString() === '/tree/deep/upwards')?.link?.toString()).toBe(
      '../../../../outside',
    );
    expect((await fileAt(opened.fish, '/tree/inside')).type).toBe('file');
    expect((await fileAt(opened.fish, '/tree/deep/upwards')).type).toBe('symlink');
    await expect(fileAt(opened.fish, '/tree/none')).rejects.toThrow('the backup has no /tree/none');
  });

  it('leaves alone what lies where a file would go, also through a symbolic link', async () => {
    const occupied = got('occupied');
    await writeFile(occupied, 'mine');
    await symlink('/nowhere', got('link'));
    await expect(placeFor('/large', occupied, { force: false })).rejects.toThrow('exists already');
    await expect(placeFor('/large', got('link'), { force: true })).rejects.toThrow('exists already');
    await expect(getFiles(opened.fish, '/large', occupied, { force: false })).rejects.toThrow('came into being');
    expect(await readFile(occupied, 'utf8')).toBe('mine');
    await getFiles(opened.fish, '/tree/deep/er/plain.txt', occupied, { force: true });
    expect(await readFile(occupied, 'utf8')).toBe('as it was written\n');
    expect(readdirSync(bed.dir).filter((name) => name.endsWith('.part'))).toEqual([]);
  });

  it('reads the installed system as it mounts itself, on the command line', async () => {
    const to = got('by-command');
    const result = await bed.holdfast.json('backup', 'files', backup.id, 'get', '/srv/tree/inside', '--to', to);
    expect(result).toMatchObject({ path: '/srv/tree/inside', to, files: 1, bytes: 18 });
    expect(await readFile(to, 'utf8')).toBe('as it was written\n');
    expect((await stat(to)).mode & 0o7777).toBe(0o750);
  });
});

/** What a tree holds: of each thing its path, type, and content or target, in the order of the paths' bytes. */
function contentsOf(folder: string, under = Buffer.alloc(0)): { path: string; is: string; content: string }[] {
  const found = readdirSync(Buffer.concat([Buffer.from(`${folder}/`), under]), { encoding: 'buffer' }).flatMap(
    (name) => {
      const relative = Buffer.concat([under, name]);
      const whole = Buffer.concat([Buffer.from(`${folder}/`), relative]);
      const path = relative.toString('latin1');
      const info = lstatSync(whole);
      if (info.isSymbolicLink()) return [{ path, is: 'link', content: readlinkSync(whole) }];
      if (!info.isDirectory()) return [{ path, is: 'file', content: info.isFile() ? sha256(whole) : '' }];
      return [
        { path, is: 'directory', content: '' },
        ...contentsOf(folder, Buffer.concat([relative, Buffer.from('/')])),
      ];
    },
  );
  return found.sort((a, b) => (a.path < b.path ? -1 : 1));
}

const sha256 = (path: string | Buffer): string => createHash('sha256').update(readFileSync(path)).digest('hex');

async function missingTools(): Promise<string | undefined> {
  for (const tool of ['guestfish', 'ntfs-3g', 'mkfs.xfs']) {
    try {
      execFileSync('sh', ['-c', 'command -v "$0" || test -x /usr/sbin/"$0"', tool]);
    } catch {
      return tool;
    }
  }
  return (await hasKernel()) ? undefined : 'a kernel in /boot';
}
