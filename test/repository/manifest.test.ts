import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../../repository/blob-store.ts';
import { checkChainFiles } from '../../repository/check-chain.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository, openRepository } from '../../repository/identity.ts';
import { diskFileKey, manifestKey } from '../../repository/layout.ts';
import {
  createManifest,
  deleteManifest,
  listManifests,
  readManifest,
  replaceManifest,
} from '../../repository/manifest.ts';
import { writeSums } from '../../repository/sums.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import { hasStoreCode, REPOSITORY_ID } from '../support/blob-store-suite.ts';
import { manifestOf } from '../support/sample-manifest.ts';

const VM = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
const OTHER_VM = '7f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
const idOf = (n: number) => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;

let root: string;
let store: BlobStore;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'holdfast-manifest-'));
  store = createDirectoryStore(root);
  await initRepository(store, { id: REPOSITORY_ID });
});
afterEach(() => rm(root, { recursive: true, force: true }));

/** Stores the file of a disk and describes its backup. */
async function storedBackup(n: number, vmUuid = VM): Promise<Manifest> {
  const instant = new Date(Date.UTC(2026, 10, 21, 12, 0, n)).toISOString();
  const file = diskFileKey({ vmUuid, diskNumber: 0, type: 'full', instant });
  await store.putBlob(file, Buffer.alloc(100, n));
  const sums = await writeSums(store, file, [{ offset: 0, lengthBytes: 100, sha256: 'a'.repeat(64) }]);
  const sample = manifestOf(idOf(n));
  const disks = sample.disks.map((disk) => ({ ...disk, file, sums }));
  return { ...sample, vm: { ...sample.vm, uuid: vmUuid }, instant, disks };
}

describe('manifest', () => {
  it('is read as it was published', async () => {
    const backup = await storedBackup(1);
    expect(await createManifest(store, backup)).toBe(manifestKey(VM, backup.id));
    expect(await readManifest(store, VM, backup.id)).toEqual(backup);
  });

  it('may be published again, but not with other content', async () => {
    const backup = await storedBackup(1);
    await createManifest(store, backup);
    await createManifest(store, backup);
    await expect(createManifest(store, { ...backup, host: 'kvm-2' })).rejects.toSatisfy(hasStoreCode('exists'));
    await replaceManifest(store, { ...backup, endOfChain: true });
    expect(await readManifest(store, VM, backup.id)).toEqual({ ...backup, endOfChain: true });
  });

  it('is not published while a file it names is missing, short or unfinished', async () => {
    const backup = await storedBackup(1);
    const [disk] = backup.disks;
    const expectRefused = async (file: string) => {
      await expect(createManifest(store, backup)).rejects.toMatchObject({ code: 'invalid', file });
      await expect(readManifest(store, VM, backup.id)).rejects.toSatisfy(hasStoreCode('not-found'));
    };
    await store.deleteBlob(disk!.sums.file);
    await expectRefused(disk!.sums.file);
    await store.putBlob(disk!.file, Buffer.alloc(99), { replace: true });
    await expectRefused(disk!.file);
    await store.deleteBlob(disk!.file);
    await expectRefused(disk!.file);
    await store.createUpload(disk!.file, { expectedBytes: 100 });
    await writeFile(join(root, disk!.file), Buffer.alloc(100));
    await expectRefused(disk!.file);
  });

  it('is not published when it does not follow the schema', async () => {
    const backup = await storedBackup(1);
    await expect(createManifest(store, { ...backup, instant: 'yesterday' })).rejects.toThrow('instant');
  });

  it('that is damaged is refused with file and field', async () => {
    const backup = await storedBackup(1);
    const key = await createManifest(store, backup);
    const put = (content: string) => store.putBlob(key, Buffer.from(content), { replace: true });
    const read = readManifest.bind(undefined, store, VM, backup.id);

    await put(JSON.stringify({ ...backup, disks: [{ ...backup.disks[0], file: '../../etc/passwd' }] }));
    await expect(read()).rejects.toThrow(`${key}: disks.0.file: must be a relative key`);
    await put('{"version": 1, "id"');
    await expect(read()).rejects.toThrow(`${key}: is not JSON`);
    await put('null');
    await expect(read()).rejects.toThrow(key);
    await put(JSON.stringify({ ...backup, id: idOf(9) }));
    await expect(read()).rejects.toThrow(`${key}: vm.uuid and id belong to`);
    await put(JSON.stringify({ ...backup, version: 2 }));
    await expect(read()).rejects.toMatchObject({ code: 'unsupported-version', file: key });
  });

  it('is listed by VM or for all; a damaged one does not hide the others', async () => {
    for (const n of [1, 2]) await createManifest(store, await storedBackup(n));
    await createManifest(store, await storedBackup(3, OTHER_VM));
    await store.putBlob(manifestKey(VM, idOf(2)), Buffer.from('{}'), { replace: true });
    await storedBackup(4); // files without a manifest are no backup

    const ofVm = await Array.fromAsync(listManifests(store, VM));
    expect(ofVm.map(({ backupId, manifest, error }) => [backupId, manifest?.id, error?.code])).toEqual([
      [idOf(1), idOf(1), undefined],
      [idOf(2), undefined, 'invalid'],
    ]);
    const all = await Array.fromAsync(listManifests(store));
    expect(all.map(({ vmUuid, backupId }) => [vmUuid, backupId])).toEqual([
      [VM, idOf(1)],
      [VM, idOf(2)],
      [OTHER_VM, idOf(3)],
    ]);

    await deleteManifest(store, VM, idOf(1));
    await deleteManifest(store, VM, idOf(1));
    expect(await Array.fromAsync(listManifests(store, VM))).toHaveLength(1);
  });
});

describe('checkChainFiles', () => {
  it('tells files that are missing, short or long', async () => {
    for (const [key, length] of Object.entries({ good: 10, short: 9, long: 11 })) {
      await store.putBlob(`vm/${key}`, Buffer.alloc(length));
    }
    const files = ['good', 'missing', 'short', 'long'].map((name) => ({ key: `vm/${name}`, storedBytes: 10 }));
    expect(await checkChainFiles(store, files)).toEqual([
      { key: 'vm/missing', problem: 'missing', expectedBytes: 10, foundBytes: undefined },
      { key: 'vm/short', problem: 'short', expectedBytes: 10, foundBytes: 9 },
      { key: 'vm/long', problem: 'long', expectedBytes: 10, foundBytes: 11 },
    ]);
  });

  it('does not call files missing when the repository is gone', async () => {
    await rm(root, { recursive: true });
    await expect(checkChainFiles(store, [{ key: 'vm/a', storedBytes: 1 }])).rejects.toSatisfy(
      hasStoreCode('unavailable'),
    );
  });
});

describe('repository identity', () => {
  it('tells another repository, an unknown version and no repository apart', async () => {
    expect(await openRepository(store, { id: REPOSITORY_ID })).toMatchObject({ id: REPOSITORY_ID, formatVersion: 1 });
    await expect(openRepository(store, { id: idOf(1) })).rejects.toMatchObject({
      code: 'foreign',
      file: 'repository.json',
    });
    const put = (value: unknown) =>
      store.putBlob('repository.json', Buffer.from(JSON.stringify(value)), { replace: true });
    await put({ id: REPOSITORY_ID, formatVersion: 2, createdAt: new Date().toISOString() });
    await expect(openRepository(store)).rejects.toMatchObject({ code: 'unsupported-version' });
    await put({ id: 'x', formatVersion: 1, createdAt: new Date().toISOString() });
    await expect(openRepository(store)).rejects.toThrow('repository.json: id: ');
    await rm(join(root, 'repository.json'));
    await expect(openRepository(store)).rejects.toMatchObject({ code: 'not-a-repository' });
  });

  it('tells another owner and another encryption apart, and is left as it is', async () => {
    await rm(join(root, 'repository.json'));
    const encryption = { format: 'age' as const, recipient: `age1${'q'.repeat(58)}`, hideNames: false };
    const owner = { installation: idOf(7), since: new Date().toISOString(), name: 'kvm-7' };
    const identity = await initRepository(store, { id: REPOSITORY_ID, owner, encryption });
    const settings = { encryption, owner: idOf(7), identity: null, immutability: null };
    expect(await openRepository(store, { id: REPOSITORY_ID, settings })).toEqual(identity);
    const opened = (over: Partial<typeof settings> | { encryption: null }) =>
      openRepository(store, { id: REPOSITORY_ID, settings: { ...settings, ...over } });
    await expect(opened({ owner: idOf(8) })).rejects.toMatchObject({ code: 'owned' });
    await expect(opened({ owner: idOf(8) })).rejects.toThrow(`installation ${idOf(7)} (kvm-7)`);
    await expect(openRepository(store, { id: REPOSITORY_ID })).rejects.toMatchObject({ code: 'owned' });
    await expect(opened({ encryption: null })).rejects.toMatchObject({ code: 'encryption-mismatch' });
    const other = { ...encryption, recipient: `age1${'p'.repeat(58)}` };
    await expect(opened({ encryption: other })).rejects.toMatchObject({ code: 'encryption-mismatch' });
    await expect(initRepository(store, { id: REPOSITORY_ID })).rejects.toMatchObject({ code: 'owned' });
    await expect(initRepository(store, { id: REPOSITORY_ID, owner })).rejects.toMatchObject({
      code: 'encryption-mismatch',
    });
    expect(await openRepository(store)).toEqual(identity);
  });

  it('of a plain repository without an owner suits an installation that expects itself, but no encryption', async () => {
    const settings = { encryption: null, owner: idOf(7), identity: null, immutability: null };
    expect(await openRepository(store, { id: REPOSITORY_ID, settings })).toMatchObject({ id: REPOSITORY_ID });
    const encryption = { format: 'age' as const, recipient: `age1${'q'.repeat(58)}`, hideNames: false };
    await expect(openRepository(store, { id: REPOSITORY_ID, settings: { ...settings, encryption } })).rejects.toThrow(
      'says that the repository is not encrypted, but it should be encrypted to age1',
    );
  });

  it('is made once, also when two make it at the same time', async () => {
    await rm(join(root, 'repository.json'));
    const made = await Promise.all([1, 2, 3].map(() => initRepository(store, { id: REPOSITORY_ID })));
    expect(new Set(made.map((identity) => identity.createdAt)).size).toBe(1);
  });
});
