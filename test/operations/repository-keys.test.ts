import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { addOperator, listOperators, removeOperator, rotateRepositoryKey } from '../../operations/repository-keys.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import { openRepositoryKeys, recipientsOf } from '../../repository/repository-keys.ts';
import { settingsOf, type RepositoryRecord } from '../../schemas/repository.ts';
import { addRepository } from '../../workers/add-repository.ts';
import { newKeyPair, type KeyPair } from '../support/encrypted-chain.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

describe('changes of the keys of a repository', () => {
  let folder: TempDir;
  let catalog: Catalog;
  let store: BlobStore;
  let alice: KeyPair;
  let added: RepositoryRecord;
  beforeEach(async () => {
    folder = await tempDir('hf-keys');
    catalog = await openCatalog('sqlite::memory:');
    alice = await newKeyPair();
    const path = join(folder.path, 'alice.key');
    await writeFile(path, `${alice.identity}\n`, { mode: 0o600 });
    const location = { kind: 'directory' as const, path: join(folder.path, 'repo') };
    const encrypt = { operators: [alice.recipient], hideNames: false };
    const settings = { identity: { kind: 'file' as const, path } };
    added = await addRepository(catalog, { name: 'vault', location, encrypt, settings });
    store = openBlobStore(location);
  });
  afterEach(async () => {
    await catalog[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
  });

  const now = async (): Promise<RepositoryRecord> => (await catalog.repositories.find('vault'))!;
  const rotate = () => rotateRepositoryKey(catalog, { name: 'vault' });

  it('that come at once are all made', async () => {
    const others = await Promise.all(Array.from({ length: 5 }, newKeyPair));
    const adding = others.map(({ recipient }) => addOperator(catalog, { name: 'vault', operator: recipient }));
    const [{ recipient }] = await Promise.all([rotate(), ...adding]);
    await removeOperator(catalog, { name: 'vault', operator: alice.recipient, dryRun: true });
    const keys = await openRepositoryKeys(store, await now());
    const expected = [alice, ...others].map((pair) => pair.recipient);
    expect(new Set(keys.operators)).toEqual(new Set(expected));
    expect((await recipientsOf(keys))[0]).toBe(recipient);
    expect(new Set((await listOperators(catalog, 'vault')).operators)).toEqual(new Set(expected));
  });

  it('let a run that was planned before a rotation go on, with the recipient it has', async () => {
    const planned = await now();
    const { recipient } = await rotate();
    await rotate();
    expect(await openRepository(store, planned)).toMatchObject({
      encryption: { former: [recipient, settingsOf(planned).encryption?.recipient] },
    });
    expect(await recipientsOf(await openRepositoryKeys(store, planned))).toContain(
      settingsOf(planned).encryption?.recipient,
    );
    expect((await openRepository(store, await now())).encryption?.recipient).not.toBe(recipient);
  });

  it('let nobody write to a recipient that never was the repository’s, nor show names that are to be hidden', async () => {
    await rotate();
    const settings = settingsOf(await now());
    const encryption = settings.encryption!;
    for (const other of [{ recipient: alice.recipient }, { hideNames: true }]) {
      const record = { ...added, settings: { ...settings, encryption: { ...encryption, ...other } } };
      await expect(openRepository(store, record)).rejects.toMatchObject({ code: 'encryption-mismatch' });
    }
    const plain = { ...added, settings: { ...settings, encryption: null } };
    await expect(openRepository(store, plain)).rejects.toMatchObject({ code: 'encryption-mismatch' });
  });

  it('that were cut off before the catalog knew are made again', async () => {
    const before = settingsOf(await now());
    await rotate();
    await catalog.repositories.changeSettings('vault', before);
    const { recipient } = await rotate();
    expect(settingsOf(await now()).encryption).toMatchObject({ recipient });
    expect((await openRepository(store, await now())).encryption).toEqual(settingsOf(await now()).encryption);
  });
});
