import { execFileSync } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { KEY_FILE } from '../../repository/layout.ts';
import { sealBytes } from '../../repository/sealed-manifest.ts';
import {
  listedOperators,
  newRepositoryKeys,
  openRepositoryKeys,
  requireRecipient,
  rotatedKeys,
  writeRepositoryKeys,
} from '../../repository/repository-keys.ts';
import { repositorySettings, type RepositorySettings, type SecretReference } from '../../schemas/repository.ts';
import { REPOSITORY_ID } from '../support/blob-store-suite.ts';
import { newKeyPair, type KeyPair } from '../support/encrypted-chain.ts';

describe('keys of a repository', () => {
  let root: string;
  let store: BlobStore;
  let alice: KeyPair;
  let reference: SecretReference;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'holdfast-keys-'));
    store = createDirectoryStore(join(root));
    await initRepository(store, { id: REPOSITORY_ID });
    alice = await newKeyPair();
    reference = { kind: 'file', path: join(root, 'alice.key') };
    await writeFile(reference.path, `# created: today\n${alice.identity}\n`, { mode: 0o600 });
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  const repository = (settings: Partial<RepositorySettings>) => ({
    name: 'main',
    settings: repositorySettings.parse({ identity: reference, ...settings }),
  });

  async function written(): Promise<string> {
    const { keys, recipient } = await newRepositoryKeys([alice.recipient]);
    await writeRepositoryKeys(store, keys);
    return recipient;
  }

  it('open with the identity of an operator', async () => {
    const recipient = await written();
    const encryption = { format: 'age' as const, recipient, hideNames: false };
    const keys = await openRepositoryKeys(store, repository({ encryption }));
    expect(keys.operators).toEqual([alice.recipient]);
    expect(await listedOperators(store)).toEqual([alice.recipient]);
  });

  it('open by hand: age with the key of an operator, then with what it gave', async () => {
    const recipient = await written();
    const stored = await sealBytes(Buffer.from('of the guest'), { format: 'age', recipient, hideNames: false });
    const key = execFileSync('age', [
      '-d',
      '-i',
      reference.kind === 'file' ? reference.path : '',
      join(root, KEY_FILE),
    ]);
    await writeFile(join(root, 'repository.key'), key);
    const plain = execFileSync('age', ['-d', '-i', join(root, 'repository.key')], { input: stored });
    expect(plain.toString()).toBe('of the guest');
  });

  it('take an operator more, and open what was written before', async () => {
    const recipient = await written();
    const bob = await newKeyPair();
    const before = await openRepositoryKeys(store, repository({}));
    await writeRepositoryKeys(store, { ...before, operators: [...before.operators, bob.recipient] });
    await writeFile(join(root, 'alice.key'), bob.identity);
    const encryption = { format: 'age' as const, recipient, hideNames: false };
    expect((await openRepositoryKeys(store, repository({ encryption }))).identities).toEqual(before.identities);
  });

  it('keep the former identity when they are rotated', async () => {
    await written();
    const before = await openRepositoryKeys(store, repository({}));
    const { keys, recipient } = await rotatedKeys(before);
    await writeRepositoryKeys(store, keys);
    const encryption = { format: 'age' as const, recipient, hideNames: false };
    const after = await openRepositoryKeys(store, repository({ encryption }));
    expect(after.identities.slice(1)).toEqual(before.identities);
    expect(after.identities[0]).not.toBe(before.identities[0]);
  });

  it('do not open with another identity, nor without one', async () => {
    await written();
    await writeFile(join(root, 'alice.key'), (await newKeyPair()).identity);
    await expect(openRepositoryKeys(store, repository({}))).rejects.toMatchObject({ code: 'key-wrong' });
    await writeFile(join(root, 'alice.key'), 'ssh-ed25519 AAAA\n');
    await expect(openRepositoryKeys(store, repository({}))).rejects.toMatchObject({ code: 'key-wrong' });
    await rm(join(root, 'alice.key'));
    await expect(openRepositoryKeys(store, repository({}))).rejects.toMatchObject({ code: 'key-missing' });
    await expect(openRepositoryKeys(store, repository({ identity: null }))).rejects.toThrow('holdfast repo set main');
  });

  it('do not open when others may read the identity, which says how to mend it', async () => {
    await written();
    await chmod(join(root, 'alice.key'), 0o640);
    const error = openRepositoryKeys(store, repository({}));
    await expect(error).rejects.toMatchObject({ code: 'key-missing' });
    await expect(error).rejects.toThrow(`chmod 600 ${join(root, 'alice.key')}`);
  });

  it('open with an identity in an environment variable', async () => {
    await written();
    const identity: SecretReference = { kind: 'env', name: 'HOLDFAST_TEST_IDENTITY' };
    await expect(openRepositoryKeys(store, repository({ identity }))).rejects.toMatchObject({ code: 'key-missing' });
    process.env.HOLDFAST_TEST_IDENTITY = alice.identity;
    try {
      expect((await openRepositoryKeys(store, repository({ identity }))).identities).toHaveLength(1);
    } finally {
      delete process.env.HOLDFAST_TEST_IDENTITY;
    }
  });

  it('are refused when they are not those of the settings, say of somebody who swapped them', async () => {
    await written();
    const encryption = { format: 'age' as const, recipient: (await newKeyPair()).recipient, hideNames: false };
    await expect(openRepositoryKeys(store, repository({ encryption }))).rejects.toMatchObject({
      code: 'encryption-mismatch',
    });
  });

  it('hold no identity in the clear', async () => {
    await written();
    const { identities } = await openRepositoryKeys(store, repository({}));
    const files = [
      await readFile(join(root, KEY_FILE), 'latin1'),
      await readFile(join(root, 'keys/recipients.txt'), 'latin1'),
    ];
    for (const content of files) expect(content).not.toContain(identities[0]);
  });

  it('have recipients whose checksum fits', () => {
    expect(requireRecipient(alice.recipient)).toBe(alice.recipient);
    const last = alice.recipient.endsWith('q') ? 'p' : 'q';
    for (const wrong of [`${alice.recipient.slice(0, -1)}${last}`, 'ssh-ed25519 AAAA', alice.identity, '']) {
      expect(() => requireRecipient(wrong)).toThrow(RangeError);
    }
  });
});
