import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { initRepository, openRepository } from '../../repository/identity.ts';
import { createBlobStore, openBlobStore } from '../../repository/open-repository.ts';
import { newRepositoryKeys } from '../../repository/repository-keys.ts';
import { addRepository } from '../../workers/add-repository.ts';
import { REPOSITORY_ID } from '../support/blob-store-suite.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

describe('addRepository', () => {
  let folder: TempDir;
  let location: { kind: 'directory'; path: string };
  beforeEach(async () => {
    folder = await tempDir('hf-repo');
    location = { kind: 'directory', path: join(folder.path, 'repo') };
  });
  afterEach(async () => await folder[Symbol.asyncDispose]());
  const stored = async (): Promise<unknown> =>
    JSON.parse(await readFile(join(location.path, 'repository.json'), 'utf8'));

  it('makes the installation its owner, which is what plans carry', async () => {
    await using catalog = await openCatalog('sqlite::memory:');
    const added = await addRepository(catalog, { name: 'main', location });
    const installation = await catalog.installation();
    expect(added.settings).toMatchObject({ owner: installation, encryption: null });
    expect(await stored()).toMatchObject({ id: added.id, owner: { installation } });
    expect(await openRepository(openBlobStore(location), added)).toMatchObject({ id: added.id });
  });

  it('is refused by the repository of another installation until it is taken over; then the former one is refused', async () => {
    await using first = await openCatalog('sqlite::memory:');
    await using second = await openCatalog('sqlite::memory:');
    const ofFirst = await addRepository(first, { name: 'main', location });
    const before = await stored();
    await expect(addRepository(second, { name: 'main', location })).rejects.toMatchObject({ code: 'owned' });
    expect(await stored()).toEqual(before);
    expect(await second.repositories.list()).toEqual([]);
    const ofSecond = await addRepository(second, { name: 'main', location, takeOver: true });
    expect(ofSecond.id).toBe(ofFirst.id);
    expect(await stored()).toMatchObject({
      owner: { installation: await second.installation(), former: await first.installation() },
    });
    const store = openBlobStore(location);
    await expect(openRepository(store, ofFirst)).rejects.toMatchObject({ code: 'owned' });
    expect(await openRepository(store, ofSecond)).toMatchObject({ id: ofFirst.id });
    await addRepository(first, { name: 'main', location, takeOver: true }); // and back
    expect(await openRepository(store, ofFirst)).toMatchObject({ id: ofFirst.id });
  });

  it('becomes the owner of one that has none, as those of former versions', async () => {
    await using catalog = await openCatalog('sqlite::memory:');
    await initRepository(await createBlobStore(location), { id: REPOSITORY_ID });
    expect(await addRepository(catalog, { name: 'main', location })).toMatchObject({ id: REPOSITORY_ID });
    expect(await stored()).toMatchObject({ owner: { installation: await catalog.installation() } });
  });

  it('takes no encrypted repository whose keys were never stored: nobody could open what is written there', async () => {
    await using catalog = await openCatalog('sqlite::memory:');
    const { recipient } = await newRepositoryKeys([]);
    const encryption = { format: 'age', recipient, hideNames: false } as const;
    await initRepository(await createBlobStore(location), { id: REPOSITORY_ID, encryption });
    await expect(addRepository(catalog, { name: 'main', location })).rejects.toMatchObject({ code: 'key-missing' });
    expect(await stored()).not.toHaveProperty('owner');
    expect(await catalog.repositories.list()).toEqual([]);
  });

  it('changes nothing where the encryption is not what was asked for', async () => {
    await using first = await openCatalog('sqlite::memory:');
    await using second = await openCatalog('sqlite::memory:');
    await addRepository(first, { name: 'main', location });
    const before = await stored();
    const encryption = { format: 'age' as const, recipient: `age1${'q'.repeat(58)}`, hideNames: false };
    const adding = addRepository(second, { name: 'main', location, settings: { encryption }, takeOver: true });
    await expect(adding).rejects.toMatchObject({ code: 'encryption-mismatch' });
    expect(await stored()).toEqual(before);
  });
});
