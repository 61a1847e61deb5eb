import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { createHash } from 'node:crypto';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createCopyBackup } from '../../activities/host/copy-backup.ts';
import { CopyNotes } from '../../activities/host/copy-notes.ts';
import type { HostDependencies } from '../../activities/host/dependencies.ts';
import { Fence } from '../../activities/host/fence.ts';
import { Paces } from '../../activities/host/paces.ts';
import { createUndoCopy } from '../../activities/host/undo-copy.ts';
import { createCopierPool } from '../../copier/pool.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { manifestKey, validationKey } from '../../repository/layout.ts';
import { createManifest, readManifest } from '../../repository/manifest.ts';
import { writeRepositoryKeys } from '../../repository/repository-keys.ts';
import { openEncryptedFile } from '../../repository/open-encrypted-file.ts';
import { openBytes, unsealManifest } from '../../repository/sealed-manifest.ts';
import { writeSums } from '../../repository/sums.ts';
import type { CopiedBackup, CopyPlan } from '../../schemas/copy.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import { newKeyPair, type KeyPair } from '../support/encrypted-chain.ts';
import { manifestOf } from '../support/sample-manifest.ts';

const BACKUP = '00000000-0000-4000-8000-000000000001';
const OPERATION = '00000000-0000-4000-8000-00000000000a';
const FROM = '00000000-0000-4000-8000-0000000000f0';
const TO = '00000000-0000-4000-8000-0000000000f1';
const CONTENT = Buffer.alloc(100_000, 'what a guest wrote ');
const copier = createCopierPool({ threads: 1 });
afterAll(() => copier[Symbol.asyncDispose]());

let root: string;
let keys: KeyPair;
let source: BlobStore;
let target: BlobStore;
let notes: CopyNotes;
let manifest: Manifest;
let plan: CopyPlan;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'holdfast-sealed-'));
  for (const name of ['from', 'to']) await mkdir(join(root, name));
  source = createDirectoryStore(join(root, 'from'));
  target = createDirectoryStore(join(root, 'to'));
  keys = await newKeyPair();
  const encryption = { format: 'age' as const, recipient: keys.recipient, hideNames: true };
  await initRepository(source, { id: FROM });
  await initRepository(target, { id: TO, encryption });
  notes = new CopyNotes(join(root, 'notes'));
  manifest = manifestOf(BACKUP);
  manifest.disks = manifest.disks.slice(0, 1).map((disk) => ({ ...disk, storedBytes: CONTENT.length }));
  const [disk] = manifest.disks;
  await source.putBlob(disk!.file, CONTENT);
  const sha256 = createHash('sha256').update(CONTENT).digest('hex');
  disk!.sums = await writeSums(source, disk!.file, [{ offset: 0, lengthBytes: CONTENT.length, sha256 }]);
  await createManifest(source, manifest);
  await source.putBlob(validationKey(manifest.vm.uuid, BACKUP), Buffer.from('a picture'));
  const common = { slots: 1, createdAt: '2026-11-21T12:00:00.000Z' };
  plan = {
    operationId: OPERATION,
    backupId: BACKUP,
    vm: manifest.vm,
    from: { ...common, name: 'main', id: FROM, location: { kind: 'directory', path: join(root, 'from') } },
    to: {
      ...common,
      name: 'vault',
      id: TO,
      location: { kind: 'directory', path: join(root, 'to') },
      settings: { encryption, identity: null, immutability: null, owner: null },
    },
    timeLimitSeconds: 60,
  };
});
afterEach(() => rm(root, { recursive: true, force: true }));

/** What goes wrong here is meant to: nothing is logged. */
const environment = () => new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR', () => undefined) });

function steps(openStore: HostDependencies['openStore'] = storeAt, of = plan) {
  const paces = new Paces(() => undefined);
  const dependencies = { copier, openStore, fence: new Fence(), paces, copies: notes } as unknown as HostDependencies;
  const host = { ...createCopyBackup(dependencies), ...createUndoCopy(dependencies) };
  return {
    copy: () => environment().run<[], CopiedBackup, () => Promise<CopiedBackup>>(() => host.copyBackupFiles(of)),
    undo: () => environment().run(() => host.undoCopy(of)),
  };
}
const storeAt: HostDependencies['openStore'] = (location) => {
  if (location.kind !== 'directory') throw new Error('no bucket here');
  if (location.path.endsWith('from')) return source;
  return location.path.endsWith('to') ? target : createDirectoryStore(location.path);
};

/** A target that is gone when the manifest is to be written: all files are finished by then. */
const goneAtTheEnd: HostDependencies['openStore'] = (location) => ({
  ...storeAt(location),
  putBlob: (key, ...rest) =>
    key.includes('/backups/') ? Promise.reject(new Error('gone')) : storeAt(location).putBlob(key, ...rest),
});

const keysIn = async (store: BlobStore): Promise<string[]> =>
  (await Array.fromAsync(store.listBlobs(''))).map(({ key }) => key).toSorted();
const repositoryKeys = () => ({ identities: [keys.identity], operators: [] });

describe('copyBackupFiles into an encrypted repository', () => {
  it('writes a manifest, disks and a picture that the key opens, and what the guest had is in none of them', async () => {
    const { disks } = await steps().copy();
    const stored = await readManifest(target, manifest.vm.uuid, BACKUP);
    expect(stored.vm.name).toBe(manifest.vm.uuid);
    const whole = await unsealManifest(stored, repositoryKeys());
    const [disk] = manifest.disks;
    expect(whole).toMatchObject({ ...manifest, disks: [{ ...disk, ...disks[0] }], copiedFrom: { repositoryId: FROM } });
    expect(disks[0]).toMatchObject({ file: `${disk!.file}.age`, sums: { file: `${disk!.file}.age.sums` } });
    const opened = await openEncryptedFile(target, whole.disks[0]!, repositoryKeys());
    expect(opened?.plainBytes).toBe(CONTENT.length);
    const file = await target.getBlob(disks[0]!.file);
    expect(await openBytes(file, repositoryKeys(), 'disk')).toEqual(CONTENT);
    expect(file.length).toBe(disks[0]!.storedBytes);
    const picture = await target.getBlob(validationKey(manifest.vm.uuid, BACKUP, { isEncrypted: true }));
    expect((await openBytes(picture, repositoryKeys(), 'picture')).toString()).toBe('a picture');
    for (const key of await keysIn(target)) expect((await target.getBlob(key)).includes('what a guest')).toBe(false);
  });

  it('leaves a file as it is that an earlier attempt finished', async () => {
    await expect(steps(goneAtTheEnd).copy()).rejects.toThrow('gone');
    const file = `${manifest.disks[0]!.file}.age`;
    const before = await target.getBlob(file);
    expect(await steps().copy()).toMatchObject({ writtenBytes: 0, disks: [{ file, storedBytes: before.length }] });
    expect(await target.getBlob(file)).toEqual(before);
  });

  it('begins a file anew that an earlier attempt did not finish, though it had written all of it', async () => {
    const file = `${manifest.disks[0]!.file}.age`;
    const { token } = await target.createUpload(file, { expectedBytes: 0 });
    const sums = { file: `${file}.sums`, sha256: 'a'.repeat(64), segments: 1 };
    const sealed = { storedBytes: 100, encryption: { format: 'age' as const, plainBytes: 1 }, sums };
    await notes.write({ plan, startedMs: Date.now(), files: [{ file, token, recrypted: sealed }] });
    expect((await steps().copy()).disks[0]?.storedBytes).toBeGreaterThan(CONTENT.length);
    expect(await openBytes(await target.getBlob(file), repositoryKeys(), 'disk')).toEqual(CONTENT);
  });

  it('locks the copy as the target promises, also when an earlier attempt has written its manifest', async () => {
    const untilMs = Date.parse(manifest.instant) + 30 * 86_400_000;
    const settings = { ...plan.to.settings!, immutability: { mode: 'governance' as const, days: 30 } };
    const lockedKeys: string[] = [];
    const locking: HostDependencies['openStore'] = (location) => ({
      ...storeAt(location),
      locks: {
        problem: () => Promise.resolve(undefined),
        lock: (key, lock) => {
          expect(lock).toEqual({ mode: 'governance', untilMs });
          lockedKeys.push(key);
          return Promise.resolve();
        },
        lockedUntilMs: () => Promise.resolve(undefined),
      },
    });
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      lockedKeys.length = 0;
      const { disks } = await steps(locking, { ...plan, to: { ...plan.to, settings } }).copy();
      const { file, sums } = disks[0]!;
      expect(new Set(lockedKeys)).toEqual(new Set([file, sums.file, manifestKey(manifest.vm.uuid, BACKUP)]));
    }
  });

  it('leaves nothing when it is undone', async () => {
    await expect(steps(goneAtTheEnd).copy()).rejects.toThrow('gone');
    await steps().undo();
    expect(await keysIn(target)).toEqual(['repository.json']);
    expect(await notes.list()).toEqual([]);
  });
});

describe('copyBackupFiles from an encrypted repository', () => {
  const THIRD = '00000000-0000-4000-8000-0000000000f2';
  let operator: KeyPair;
  let other: KeyPair;
  let third: BlobStore;
  const thirdKeys = () => ({ identities: [other.identity], operators: [] });

  /** The copy in the vault goes on to a third place. */
  async function planOn(
    encryption: { format: 'age'; recipient: string; hideNames: boolean } | null,
  ): Promise<CopyPlan> {
    await initRepository(third, { id: THIRD, ...(encryption === null ? {} : { encryption }) });
    const identity = { kind: 'file' as const, path: join(root, 'operator.key') };
    const settings = { identity: null, immutability: null, owner: null };
    return {
      ...plan,
      operationId: '00000000-0000-4000-8000-00000000000b',
      from: { ...plan.to, settings: { ...settings, encryption: plan.to.settings!.encryption, identity } },
      to: {
        ...plan.to,
        name: 'third',
        id: THIRD,
        location: { kind: 'directory', path: join(root, 'third') },
        settings: { ...settings, encryption },
      },
    };
  }

  beforeEach(async () => {
    await mkdir(join(root, 'third'));
    third = createDirectoryStore(join(root, 'third'));
    [operator, other] = [await newKeyPair(), await newKeyPair()];
    await writeFile(join(root, 'operator.key'), operator.identity);
    await chmod(join(root, 'operator.key'), 0o600);
    await writeRepositoryKeys(target, { identities: [keys.identity], operators: [operator.recipient] });
    await steps().copy();
  });

  it("encrypts everything anew for the other's key: only that opens it, and it holds the same", async () => {
    const encryption = { format: 'age' as const, recipient: other.recipient, hideNames: false };
    const { disks } = await steps(storeAt, await planOn(encryption)).copy();
    const stored = await readManifest(third, manifest.vm.uuid, BACKUP);
    expect(stored.vm.name).toBe(manifest.vm.uuid); // as the original hides it
    const whole = await unsealManifest(stored, thirdKeys());
    const [disk] = manifest.disks;
    expect(whole).toMatchObject({ ...manifest, disks: [{ ...disk, ...disks[0] }], copiedFrom: { repositoryId: TO } });
    expect(disks[0]!.file).toBe(`${disk!.file}.age`);
    const file = await third.getBlob(disks[0]!.file);
    expect(await openBytes(file, thirdKeys(), 'disk')).toEqual(CONTENT);
    await expect(openBytes(file, repositoryKeys(), 'disk')).rejects.toMatchObject({ code: 'key-wrong' });
    const picture = await third.getBlob(validationKey(manifest.vm.uuid, BACKUP, { isEncrypted: true }));
    expect((await openBytes(picture, thirdKeys(), 'picture')).toString()).toBe('a picture');
    for (const key of await keysIn(third)) expect((await third.getBlob(key)).includes('what a guest')).toBe(false);
  });

  it('decrypts only where that was asked for, and then all of it', async () => {
    const silent = await planOn(null);
    await expect(steps(storeAt, silent).copy()).rejects.toMatchObject({ type: 'EncryptionMismatch' });
    expect(await keysIn(third)).toEqual(['repository.json']);
    const { disks } = await steps(storeAt, { ...silent, decrypt: true }).copy();
    const [disk] = manifest.disks;
    expect(disks[0]).toEqual(disk);
    expect(await third.getBlob(disk!.file)).toEqual(CONTENT);
    const { copiedFrom: _, ...copied } = await readManifest(third, manifest.vm.uuid, BACKUP);
    expect(copied).toEqual(await readManifest(source, manifest.vm.uuid, BACKUP));
    expect((await third.getBlob(validationKey(manifest.vm.uuid, BACKUP))).toString()).toBe('a picture');
  });

  it.each([
    ['the wrong identity', 'key-wrong', () => writeFile(join(root, 'operator.key'), other.identity)],
    ['no identity', 'key-missing', () => rm(join(root, 'operator.key'))],
  ])('writes nothing with %s', async (_, code, spoil) => {
    const on = await planOn({ format: 'age', recipient: other.recipient, hideNames: true });
    await spoil();
    await expect(steps(storeAt, on).copy()).rejects.toMatchObject({ code });
    expect(await keysIn(third)).toEqual(['repository.json']);
    expect(await notes.read(on.operationId)).toBeUndefined();
  });
});
