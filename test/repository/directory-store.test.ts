import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository, openRepository } from '../../repository/identity.ts';
import { createBlobStore, openBlobStore } from '../../repository/open-repository.ts';
import { fileSinkOf, openSink } from '../../repository/sink.ts';
import { openSource } from '../../repository/source.ts';
import { blobStoreSuite, hasStoreCode, REPOSITORY_ID } from '../support/blob-store-suite.ts';

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function emptyFolder(): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'holdfast-store-'));
  cleanups.push(() => rm(root, { recursive: true, force: true }));
  return root;
}

async function newRepository() {
  const root = await emptyFolder();
  const store = createDirectoryStore(root);
  await initRepository(store, { id: REPOSITORY_ID });
  return { root, store };
}

const isRoot = process.getuid?.() === 0;
function mounts(): boolean {
  try {
    execFileSync('unshare', ['-m', 'true'], { stdio: 'ignore' });
    return isRoot;
  } catch {
    return false;
  }
}
const canMount = mounts();

/** A small tmpfs with a repository in it. */
async function smallRepository(sizeBytes: number) {
  const root = await emptyFolder();
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${sizeBytes}`, 'tmpfs', root]);
  cleanups.push(async () => void execFileSync('umount', ['-l', root]));
  const store = createDirectoryStore(root);
  await initRepository(store, { id: REPOSITORY_ID });
  return { root, store };
}

describe('directory store', () => {
  blobStoreSuite(async () => {
    const root = await emptyFolder();
    return { store: createDirectoryStore(root), reopen: () => createDirectoryStore(root) };
  });

  it('keeps disk contents from other users of the machine', async () => {
    const { root, store } = await newRepository();
    await store.putBlob('vm/a', Buffer.from('x'));
    const listing = execFileSync('stat', ['-c', '%a', join(root, 'vm'), join(root, 'vm/a')]).toString();
    expect(listing.split('\n').every((mode) => mode === '' || mode.endsWith('0'))).toBe(true);
  });

  it('removes the folders of the last blob, and its token', async () => {
    const { root, store } = await newRepository();
    const upload = await store.createUpload('vm/disk-0/a', { expectedBytes: 0 });
    await upload.finish(0);
    expect(await readdir(join(root, 'vm/disk-0'))).toEqual(['a']);
    await store.deleteBlob('vm/disk-0/a');
    expect(await readdir(root)).toEqual(['repository.json']);
  });

  it('does not list what others put beside its blobs', async () => {
    const { root, store } = await newRepository();
    await mkdir(join(root, 'lost+found'));
    await writeFile(join(root, 'lost+found/x'), '');
    await writeFile(join(root, 'a b'), '');
    await mkdir(join(root, '.snapshot'));
    expect((await Array.fromAsync(store.listBlobs(''))).map(({ key }) => key)).toEqual(['repository.json']);
  });

  it('calls an upload unavailable whose file somebody removed', async () => {
    const { root, store } = await newRepository();
    const upload = await store.createUpload('vm/a', { expectedBytes: 0 });
    await rm(join(root, 'vm/a'));
    await expect(upload.finish(0)).rejects.toThrow(/vm\/a is gone/);
    await upload.abort();
    expect(await readdir(root)).toEqual(['repository.json']);
  });

  describe('torn writes', () => {
    it('ignores the temporary file of a killed writer, and a later writer removes it', async () => {
      const { root, store } = await newRepository();
      await store.putBlob('vm/a', Buffer.from('a'));
      const torn = join(root, 'vm/.tmp-killed');
      const fresh = join(root, 'vm/.tmp-at-work');
      await writeFile(torn, 'half of a mani');
      await writeFile(fresh, 'half');
      await utimes(torn, new Date(0), new Date(0));
      expect((await Array.fromAsync(store.listBlobs('vm/'))).map(({ key }) => key)).toEqual(['vm/a']);
      await store.putBlob('vm/b', Buffer.from('b'));
      expect(await readdir(join(root, 'vm'))).toEqual(['.tmp-at-work', 'a', 'b']);
    });

    it('does not go on with a file whose token was half written or is gone', async () => {
      const { root, store } = await newRepository();
      const { token } = await store.createUpload('vm/a', { expectedBytes: 0 });
      await writeFile(join(root, 'vm/.upload-a'), token.slice(0, 10));
      expect(await store.resumeUpload('vm/a', token)).toBeUndefined();
      await rm(join(root, 'vm/.upload-a'));
      expect(await store.resumeUpload('vm/a', token)).toBeUndefined();
      await writeFile(join(root, 'vm/.upload-a'), token);
      await rm(join(root, 'vm/a'));
      expect(await store.resumeUpload('vm/a', token)).toBeUndefined();
    });

    it('leaves the former content when a replacement fails', async () => {
      const { root, store } = await newRepository();
      await store.putBlob('vm/a', Buffer.from('former'));
      await mkdir(join(root, 'vm/b'));
      await expect(store.putBlob('vm/b', Buffer.from('x'), { replace: true })).rejects.toSatisfy(
        hasStoreCode('invalid-key'),
      );
      expect(await readdir(join(root, 'vm'))).toEqual(['a', 'b']);
      expect((await store.getBlob('vm/a')).toString()).toBe('former');
    });
  });

  describe('symbolic links below the root', () => {
    it('are refused on the way to a blob', async () => {
      const { root, store } = await newRepository();
      const outside = await emptyFolder();
      await writeFile(join(outside, 'secret'), 'secret');
      await symlink(outside, join(root, 'vm'));
      const refused = hasStoreCode('invalid-key');
      await expect(store.getBlob('vm/secret')).rejects.toSatisfy(refused);
      await expect(store.putBlob('vm/new', Buffer.from('x'))).rejects.toSatisfy(refused);
      await expect(store.createUpload('vm/new', { expectedBytes: 0 })).rejects.toSatisfy(refused);
      await expect(store.deleteBlob('vm/secret')).rejects.toSatisfy(refused);
      await expect(Array.fromAsync(store.listBlobs('vm/'))).rejects.toSatisfy(refused);
      expect((await Array.fromAsync(store.listBlobs(''))).map(({ key }) => key)).toEqual(['repository.json']);
      expect(await readdir(outside)).toEqual(['secret']);
    });

    it('are refused as a blob', async () => {
      const { root, store } = await newRepository();
      const outside = await emptyFolder();
      await writeFile(join(outside, 'secret'), 'secret');
      await symlink(join(outside, 'secret'), join(root, 'a'));
      await expect(store.getBlob('a')).rejects.toSatisfy(hasStoreCode('invalid-key'));
      await expect(store.statBlob('a')).rejects.toSatisfy(hasStoreCode('invalid-key'));
      await expect(openSource(store.source('a'))).rejects.toSatisfy(hasStoreCode('invalid-key'));
      await expect(store.createUpload('a', { expectedBytes: 0 })).rejects.toSatisfy(hasStoreCode('exists'));
      await store.deleteBlob('a'); // the link, not what it points at
      expect(await readFile(join(outside, 'secret'), 'utf8')).toBe('secret');
    });
  });

  describe('a vanished root', () => {
    it('is unavailable, never an empty repository, and is not created again', async () => {
      const { root, store } = await newRepository();
      await store.putBlob('vm/a', Buffer.from('x'));
      const upload = await store.createUpload('vm/b', { expectedBytes: 0 });
      const aside = `${root}-aside`;
      await rename(root, aside);
      cleanups.push(() => rm(aside, { recursive: true, force: true }));
      const unavailable = hasStoreCode('unavailable');
      const expectUnavailable = async () => {
        await expect(store.statBlob('vm/a')).rejects.toSatisfy(unavailable);
        await expect(store.getBlob('vm/a')).rejects.toSatisfy(unavailable);
        await expect(store.deleteBlob('vm/a')).rejects.toSatisfy(unavailable);
        await expect(store.putBlob('vm/c', Buffer.from('x'))).rejects.toSatisfy(unavailable);
        await expect(store.createUpload('vm/c', { expectedBytes: 0 })).rejects.toSatisfy(unavailable);
        await expect(store.resumeUpload('vm/b', upload.token)).rejects.toSatisfy(unavailable);
        await expect(upload.finish(0)).rejects.toSatisfy(unavailable);
        await expect(Array.fromAsync(store.listBlobs(''))).rejects.toSatisfy(unavailable);
        await expect(store.freeSpaceBytes()).rejects.toSatisfy(unavailable);
        await expect(openSource(store.source('vm/a'))).rejects.toSatisfy(unavailable);
        await expect(openRepository(store)).rejects.toMatchObject({ code: 'not-a-repository' });
      };
      await expectUnavailable();
      await expect(readdir(root)).rejects.toMatchObject({ code: 'ENOENT' });

      await mkdir(root); // the empty folder beneath an unmounted file system
      await expectUnavailable();
      expect(await readdir(root)).toEqual([]);

      await rm(root, { recursive: true });
      await rename(aside, root);
      expect((await store.getBlob('vm/a')).toString()).toBe('x');
      expect(await store.resumeUpload('vm/b', upload.token)).toBeDefined();
    });

    it('is created only by the one who adds a repository', async () => {
      const root = join(await emptyFolder(), 'new/repository');
      await expect(
        initRepository(openBlobStore({ kind: 'directory', path: root }), { id: REPOSITORY_ID }),
      ).rejects.toSatisfy(hasStoreCode('unavailable'));
      await initRepository(await createBlobStore({ kind: 'directory', path: root }), { id: REPOSITORY_ID });
      expect(await readdir(root)).toEqual(['repository.json']);
    });
  });

  describe.skipIf(!canMount)('on a file system of its own (needs root and mount)', () => {
    it('says `full`, keeps what was there and leaves no torn file', async () => {
      const { root, store } = await smallRepository(512 * 1024);
      await store.putBlob('vm/a', Buffer.from('kept'));
      await expect(store.putBlob('vm/b', Buffer.alloc(1024 * 1024))).rejects.toSatisfy(hasStoreCode('full'));
      await expect(store.putBlob('vm/a', Buffer.alloc(1024 * 1024), { replace: true })).rejects.toSatisfy(
        hasStoreCode('full'),
      );
      await expect(store.createUpload('vm/b', { expectedBytes: 1024 * 1024 })).rejects.toSatisfy(hasStoreCode('full'));
      const upload = await store.createUpload('vm/b', { expectedBytes: 0 });
      {
        await using sink = await openSink(fileSinkOf(upload));
        await expect(sink.write(0, Buffer.alloc(1024 * 1024))).rejects.toSatisfy(hasStoreCode('full'));
      }
      await upload.abort();
      expect(await readdir(join(root, 'vm'))).toEqual(['a']);
      expect((await store.getBlob('vm/a')).toString()).toBe('kept');
      await store.putBlob('vm/b', Buffer.alloc(64 * 1024));
    });

    it('says `read-only`, and reads on', async () => {
      const { root, store } = await smallRepository(512 * 1024);
      await store.putBlob('vm/a', Buffer.from('kept'));
      const upload = await store.createUpload('vm/b', { expectedBytes: 0 });
      execFileSync('mount', ['-o', 'remount,ro', root]);
      const readOnly = hasStoreCode('read-only');
      await expect(store.putBlob('vm/c', Buffer.from('x'))).rejects.toSatisfy(readOnly);
      await expect(store.putBlob('other/c', Buffer.from('x'))).rejects.toSatisfy(readOnly);
      await expect(store.createUpload('vm/c', { expectedBytes: 0 })).rejects.toSatisfy(readOnly);
      await expect(store.deleteBlob('vm/a')).rejects.toSatisfy(readOnly);
      await expect(upload.finish(0)).rejects.toSatisfy(readOnly);
      expect((await store.getBlob('vm/a')).toString()).toBe('kept');
      execFileSync('mount', ['-o', 'remount,rw', root]);
      await upload.finish(0);
    });

    it('says `unavailable` when it is unmounted', async () => {
      const { root, store } = await smallRepository(512 * 1024);
      await store.putBlob('vm/a', Buffer.from('kept'));
      execFileSync('umount', [root]);
      await expect(store.statBlob('vm/a')).rejects.toSatisfy(hasStoreCode('unavailable'));
      await expect(store.putBlob('vm/b', Buffer.from('x'))).rejects.toSatisfy(hasStoreCode('unavailable'));
      expect(await readdir(root)).toEqual([]);
      execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', root]);
    });
  });
});
