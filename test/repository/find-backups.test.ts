import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { countManifests, findBackups } from '../../repository/find-backups.ts';
import { initRepository } from '../../repository/identity.ts';
import { encodeJson } from '../../repository/json-blob.ts';
import { manifestKey } from '../../repository/layout.ts';
import { newRepositoryKeys } from '../../repository/repository-keys.ts';
import { sealManifest } from '../../repository/sealed-manifest.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import { REPOSITORY_ID } from '../support/blob-store-suite.ts';
import { manifestOf } from '../support/sample-manifest.ts';

const idOf = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
const VM = manifestOf(idOf(1)).vm.uuid;

let root: string;
let store: BlobStore;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'holdfast-find-'));
  store = createDirectoryStore(root);
  await initRepository(store, { id: REPOSITORY_ID });
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function put(key: string, content: string | Buffer): Promise<void> {
  await mkdir(dirname(join(root, key)), { recursive: true });
  await writeFile(join(root, key), content);
}

/** A backup with its files. */
async function store1(n: number): Promise<{ manifest: Manifest; file: string; sums: string }> {
  const sample = manifestOf(idOf(n));
  const file = `${VM}/disk-0/full-20261121-12000${n}.qcow2`;
  const sums = `${file}.sums`;
  const manifest: Manifest = {
    ...sample,
    instant: `2026-11-21T12:00:0${n}.000Z`,
    disks: sample.disks.map((disk) => ({ ...disk, file, sums: { ...disk.sums, file: sums } })),
  };
  await put(file, Buffer.alloc(100));
  await put(sums, 'sums');
  await put(manifestKey(VM, manifest.id), encodeJson(manifest));
  return { manifest, file, sums };
}

describe('findBackups', () => {
  it('finds backups in the order of their instants, with nothing to object to', async () => {
    const [second, first] = [await store1(2), await store1(1)];
    const { backups, unreadable, surplus } = await findBackups(store, VM, null);
    expect(backups.map(({ id, problems, hasCheckpoint }) => ({ id, problems, hasCheckpoint }))).toEqual([
      { id: first.manifest.id, problems: [], hasCheckpoint: false },
      { id: second.manifest.id, problems: [], hasCheckpoint: false },
    ]);
    expect({ unreadable, surplus }).toEqual({ unreadable: [], surplus: [] });
  });

  it.each([
    ['a missing file', async (file: string) => await rm(join(root, file)), 'missing'],
    ['a file that was cut off', async (file: string) => await truncate(join(root, file), 99), 'damaged'],
    ['a missing list of sums', async (file: string) => await rm(join(root, `${file}.sums`)), 'missing'],
  ])('tells of %s', async (_, harm, problem) => {
    const { file } = await store1(1);
    await harm(file);
    const [backup] = (await findBackups(store, VM, null)).backups;
    expect(backup?.problems).toMatchObject([{ file, problem }]);
  });

  it('takes files of ours that no manifest names for surplus, and nobody else’s', async () => {
    await store1(1);
    await put(`${VM}/disk-0/incr-20261121-130000.qcow2`, 'xyz');
    await put(`${VM}/notes.txt`, 'mine');
    await put(`${VM}/validation/${idOf(1)}.png`, 'named by its backup');
    await put(`${VM}/validation/${idOf(1)}.png.age`, 'also');
    await store.createUpload(`${VM}/disk-0/incr-20261121-140000.qcow2`, { expectedBytes: 10 });
    expect((await findBackups(store, VM, null)).surplus).toEqual([
      { key: `${VM}/disk-0/incr-20261121-130000.qcow2`, sizeBytes: 3, isUpload: false },
      { key: `${VM}/disk-0/incr-20261121-140000.qcow2`, sizeBytes: 0, isUpload: true },
    ]);
  });

  it('calls nothing surplus beside a manifest that cannot be read: that one may name it', async () => {
    const { manifest } = await store1(1);
    await put(manifestKey(VM, manifest.id), '{"version": 1');
    const { backups, unreadable, surplus } = await findBackups(store, VM, null);
    expect({ backups, surplus }).toEqual({ backups: [], surplus: [] });
    expect(unreadable).toMatchObject([{ backupId: manifest.id }]);
  });

  it('opens hidden names with the keys, and finds the backup without them', async () => {
    const { keys, recipient } = await newRepositoryKeys([]);
    const { manifest } = await store1(1);
    const sealed = await sealManifest(manifest, { format: 'age', recipient, hideNames: true });
    await put(manifestKey(VM, manifest.id), encodeJson(sealed));
    const named = await findBackups(store, VM, keys);
    expect(named).toMatchObject({ sealed: [], backups: [{ vmName: 'web-1', host: 'kvm-1' }] });
    expect(named.backups[0]?.disks[0]?.sourcePath).toBe(manifest.disks[0]?.sourcePath);
    const { keys: others } = await newRepositoryKeys([]);
    for (const none of [null, others]) {
      expect(await findBackups(store, VM, none)).toMatchObject({
        sealed: [{ backupId: manifest.id }],
        unreadable: [],
        backups: [{ id: manifest.id, vmName: VM, problems: [] }],
      });
    }
  });

  it('counts the manifests of each VM, also of one of which only files are left', async () => {
    await store1(1);
    await store1(2);
    const other = idOf(9);
    await put(`${other}/disk-0/full-20261121-120000.qcow2`, 'xyz');
    expect([...(await countManifests(store))].toSorted()).toEqual([
      [other, 0],
      [VM, 2],
    ]);
  });
});
