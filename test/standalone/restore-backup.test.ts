import { cp, mkdir, open, readdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createCopierPool } from '../../copier/pool.ts';
import type { CopierPool } from '../../copier/contract.ts';
import { rewriteKey, sumsKey } from '../../repository/layout.ts';
import { replaceManifest } from '../../repository/manifest.ts';
import { openPlace, type OpenPlace } from '../../standalone/open-place.ts';
import { planStandaloneRestore, type StandaloneRequest } from '../../standalone/plan-restore.ts';
import { restoreBackup, type StandaloneRestored } from '../../standalone/restore-backup.ts';
import { findStored, listStored } from '../../standalone/stored-backups.ts';
import { failureTypeOf } from '../../workers/failure-interceptor.ts';
import { newKeyPair } from '../support/encrypted-chain.ts';
import { sha256OfImage } from '../support/disk-content.ts';
import { SAMPLE, sampleRepository, stateOfFolder, type SampleRepository } from '../support/sample-repository.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

describe('a restore from the repository alone', () => {
  let repository: SampleRepository;
  let copier: CopierPool;
  let work: TempDir;
  let number = 0;
  beforeAll(async () => {
    repository = await sampleRepository();
    copier = createCopierPool();
    work = await tempDir('hf-alone');
  });
  afterAll(async () => {
    await copier[Symbol.asyncDispose]();
    await repository[Symbol.asyncDispose]();
    await work[Symbol.asyncDispose]();
  });

  const newFolder = (): string => join(work.path, String((number += 1)), 'web-1');
  /** A copy of the repository, to be spoilt. */
  async function copied(): Promise<OpenPlace & { path: string }> {
    const path = join(work.path, `repository-${(number += 1)}`);
    await cp(repository.path, path, { recursive: true });
    return { ...(await openPlace({ kind: 'directory', path })), path };
  }
  async function restore(
    place: OpenPlace,
    id: string,
    {
      signal = new AbortController().signal,
      onProgress = () => undefined,
      ...over
    }: Partial<StandaloneRequest> & {
      signal?: AbortSignal;
      onProgress?: () => void;
    } = {},
  ): Promise<StandaloneRestored> {
    const { manifest } = await findStored(place, { id });
    const request = { folder: newFolder(), ...over };
    const plan = await planStandaloneRestore(place, manifest, request, (reason) => {
      throw reason;
    });
    return await restoreBackup(place, plan, { copier, signal, onProgress });
  }
  async function hashes({ disks }: StandaloneRestored): Promise<Record<string, string>> {
    const found = await Promise.all(
      disks.map(
        async ({ target, path }) =>
          [target, await sha256OfImage(path, path.endsWith('.img') ? 'raw' : 'qcow2')] as const,
      ),
    );
    return Object.fromEntries(found);
  }
  /** The failure's type; nothing is left of the restore, not even its folder. */
  async function refusal(place: OpenPlace, id: string, over: Parameters<typeof restore>[2] = {}): Promise<unknown> {
    const folder = newFolder();
    await mkdir(join(folder, '..'));
    const error = await restore(place, id, { folder, ...over }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(await readdir(join(folder, '..'))).toEqual([]);
    return failureTypeOf(error) ?? error;
  }

  it('writes single disks without a definition', async () => {
    const restored = await restore(await copied(), SAMPLE.incremental, { disks: ['vdb'] });
    expect(restored).toMatchObject({ definition: null, files: [] });
    expect(await readdir(restored.folder)).toEqual(['web-1-vdb.img']);
    expect(await hashes(restored)).toEqual({ vdb: repository.hashes.incremental['vdb'] });
  });

  it.each(['before', 'after'] as const)('reads a file that is being swapped, %s it has moved', async (when) => {
    const place = await copied();
    const { full } = repository.manifests;
    const [vda, vdb] = full.disks;
    const temporary = rewriteKey(vda!.file, SAMPLE.incremental);
    // The same content with another length, as a rewriting leaves it.
    const replacement = {
      ...vda!,
      storedBytes: vda!.storedBytes + 65_536,
      temporary,
      sums: { ...vda!.sums, file: sumsKey(temporary) },
      compression: 'none' as const,
    };
    if (when === 'before') {
      await writeFile(join(place.path, temporary), 'not looked at');
      await replaceManifest(place.store, { ...full, disks: [{ ...vda!, replacement }, vdb!] });
    } else {
      // Told the other way round: what lies there is the replacement, and the fields beside it are of a file that is gone.
      await rename(join(place.path, vda!.sums.file), join(place.path, sumsKey(temporary)));
      const moved = { ...replacement, storedBytes: vda!.storedBytes };
      const former = { ...vda!, storedBytes: 1, replacement: moved };
      await replaceManifest(place.store, { ...full, disks: [former, vdb!] });
    }
    const before = await stateOfFolder(place.path);
    expect(await hashes(await restore(place, SAMPLE.incremental))).toEqual(repository.hashes.incremental);
    expect(await stateOfFolder(place.path)).toEqual(before);
  });

  it('refuses an altered, a short and a missing file, and leaves nothing behind', async () => {
    const place = await copied();
    const path = join(place.path, repository.manifests.full.disks[0]!.file);
    await using file = await open(path, 'r+');
    await file.write(Buffer.from('X'), 0, 1, 3 * 1024 * 1024);
    expect(await refusal(place, SAMPLE.incremental)).toBe('IntegrityMismatch');
    await file.truncate(4 * 1024 * 1024);
    expect(await refusal(place, SAMPLE.incremental)).toBe('IntegrityMismatch');
    await rename(path, `${path}.away`);
    expect(await refusal(place, SAMPLE.incremental)).toBe('BackupFileMissing');
  });

  it('refuses an altered copy of UEFI variables', async () => {
    const place = await copied();
    const { full } = repository.manifests;
    const files = full.files.map((file) => ({ ...file, content: Buffer.from('other').toString('base64') }));
    await replaceManifest(place.store, { ...full, files });
    expect(await refusal(place, SAMPLE.full)).toBe('IntegrityMismatch');
  });

  it('refuses a destination that exists, and leaves it as it is', async () => {
    const place = await copied();
    const { folder } = await restore(place, SAMPLE.full, { disks: ['vdb'] });
    const before = await stateOfFolder(folder);
    await expect(restore(place, SAMPLE.full, { folder })).rejects.toThrow(/web-1-vdb.img exists/);
    expect(await stateOfFolder(folder)).toEqual(before);
  });

  it('removes what it wrote when it is aborted in the middle', async () => {
    const controller = new AbortController();
    const reason = new Error('stopped');
    const onProgress = () => controller.abort(reason);
    expect(await refusal(await copied(), SAMPLE.incremental, { signal: controller.signal, onProgress })).toBe(reason);
  });

  it('opens an encrypted repository by an identity, and refuses without or with a wrong one before the first write', async () => {
    await using secret = await sampleRepository({ encrypted: true });
    const place = { kind: 'directory' as const, path: secret.path };
    const open = await openPlace(place, { kind: 'file', path: secret.identityFile });
    const { manifest } = await findStored(open, { id: 'latest', vm: 'web-1' });
    expect(manifest).toEqual(secret.manifests.incremental);
    expect(await hashes(await restore(open, SAMPLE.incremental))).toEqual(secret.hashes.incremental);
    const blind = await openPlace(place);
    expect(await refusal(blind, SAMPLE.incremental)).toBe('KeyMissing');
    expect((await listStored(blind)).manifests.map(({ vm }) => vm.name)).toEqual([SAMPLE.vmUuid, SAMPLE.vmUuid]);
    const stranger = (await newKeyPair()).identity;
    process.env['HOLDFAST_TEST_IDENTITY'] = stranger;
    const wrong = openPlace(place, { kind: 'env', name: 'HOLDFAST_TEST_IDENTITY' });
    expect(await wrong.catch(failureTypeOf)).toBe('KeyWrong');
    delete process.env['HOLDFAST_TEST_IDENTITY'];
  });

  it('finds a backup by the beginning of its id or as the latest of its VM, and says which it cannot tell apart', async () => {
    const place = await copied();
    const typeOf = async (id: string, vm?: string) =>
      await findStored(place, { id, vm }).then(({ manifest }) => manifest.id, failureTypeOf);
    expect(await typeOf('1a11')).toBe(SAMPLE.full);
    expect(await typeOf('3333')).toBe('BackupNotFound');
    expect(await typeOf('')).toBe('BackupNotFound'); // begins both
    expect(await typeOf('latest')).toBe(SAMPLE.incremental);
    expect(await typeOf('latest', SAMPLE.vmUuid)).toBe(SAMPLE.incremental);
    expect(await typeOf('latest', 'web-9')).toBe('BackupNotFound');
    const other = '7f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
    await replaceManifest(place.store, { ...repository.manifests.full, vm: { uuid: other, name: 'web-2' } });
    expect(await typeOf('latest')).toBe('VmAmbiguous');
    expect(await typeOf('latest', 'web-2')).toBe(SAMPLE.full);
  });

  it('says that a younger backup may be hidden by a damaged manifest', async () => {
    const place = await copied();
    const key = `${SAMPLE.vmUuid}/backups/${SAMPLE.incremental}.json`;
    await writeFile(join(place.path, key), '{"version": 1');
    const { manifest, warnings } = await findStored(place, { id: 'latest' });
    expect(manifest.id).toBe(SAMPLE.full);
    expect(warnings).toEqual([expect.stringContaining(key)]);
    expect(await findStored(place, { id: '2b22' }).catch(failureTypeOf)).toBe('IntegrityMismatch');
  });
});
