import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { Catalog } from '../catalog/contract.ts';
import type { BlobStore } from '../repository/blob-store.ts';
import { requireAccess } from '../repository/check-access.ts';
import { giveRepositoryTo, initRepository, openRepository, ownedBy } from '../repository/identity.ts';
import { KEY_FILE, REPOSITORY_FILE } from '../repository/layout.ts';
import { createBlobStore } from '../repository/open-repository.ts';
import { newRepositoryKeys, writeRepositoryKeys } from '../repository/repository-keys.ts';
import { RepositoryError } from '../repository/repository-error.ts';
import type { RepositoryOwner } from '../schemas/manifest.ts';
import {
  placeText,
  repositorySettings,
  type RepositoryLocation,
  type RepositoryRecord,
  type RepositorySettings,
} from '../schemas/repository.ts';
import { HoldfastError } from '../schemas/failures.ts';

const DEFAULT_SLOTS = 16;

/**
 * Makes a place a repository, or takes one that is there already, and notes it in the catalog. The installation becomes its
 * owner: a repository that has another one is refused, unless it is to be taken over.
 * @throws HoldfastError InvalidRequest when the name or the place is taken; BlobStoreError, RepositoryError
 */
export async function addRepository(
  catalog: Catalog,
  {
    name,
    location,
    slots = DEFAULT_SLOTS,
    settings = {},
    takeOver = false,
    encrypt,
  }: {
    name: string;
    location: RepositoryLocation;
    slots?: number;
    settings?: Partial<RepositorySettings>;
    takeOver?: boolean;
    /** A new repository is encrypted, and these recipients can open it. */
    encrypt?: { operators: readonly string[]; hideNames: boolean };
  },
): Promise<RepositoryRecord> {
  const sameAs = async (): Promise<RepositoryRecord | undefined> => {
    for (const known of await catalog.repositories.list()) {
      const isPlace = placeText(known.location) === placeText(location);
      if (isPlace && known.name === name && takeOver) return known; // to get it back from another installation
      if (known.name === name) throw new HoldfastError('InvalidRequest', `name: a repository ${name} is there already`);
      if (isPlace) {
        throw new HoldfastError(
          'InvalidRequest',
          `location: ${placeText(location)} is repository ${known.name} already`,
        );
      }
    }
    return undefined;
  };
  const known = await sameAs();
  const store = await createBlobStore(location);
  const installation = await catalog.installation();
  const owner: RepositoryOwner = { installation, since: new Date().toISOString(), name: hostname() };
  const present = await openRepository(store).catch((error: unknown) => {
    if (error instanceof RepositoryError && error.code === 'not-a-repository') return undefined;
    throw error;
  });
  if (present?.owner !== undefined && present.owner.installation !== installation && !takeOver) {
    throw new RepositoryError('owned', REPOSITORY_FILE, `${placeText(location)} ${ownedBy(present.owner)}`);
  }
  if (encrypt !== undefined && present !== undefined) {
    throw new HoldfastError(
      'InvalidRequest',
      `encrypt: ${placeText(location)} is a repository already, ${present.encryption ? 'encrypted' : 'not encrypted'}, and stays so; ` +
        'leave --encrypt away, or take another place',
    );
  }
  const fresh = encrypt && (await newRepositoryKeys(encrypt.operators));
  const encryption = fresh
    ? { format: 'age' as const, recipient: fresh.recipient, hideNames: encrypt.hideNames }
    : settings.encryption === undefined
      ? (present?.encryption ?? null)
      : settings.encryption;
  const promised = repositorySettings.parse({ ...known?.settings, ...settings, encryption, owner: installation });
  const id = known?.id ?? present?.id ?? randomUUID();
  if (location.kind === 's3') await requireAccess(store); // a folder tells by the file that is written next
  if (present?.encryption !== undefined) await requireKeys(store, placeText(location));
  if (present !== undefined && present.owner?.installation !== installation) {
    const asItIs = { ...promised, owner: present.owner?.installation ?? null };
    await openRepository(store, { id, settings: asItIs }); // refused before anything is changed
    await giveRepositoryTo(store, present, owner);
  }
  await initRepository(store, { id, owner, ...(encryption === null ? {} : { encryption }) });
  // After repository.json, which only one of two can write: the keys of the other would be lost.
  if (fresh !== undefined) await writeRepositoryKeys(store, fresh.keys);
  if (known !== undefined) {
    await catalog.repositories.changeSettings(name, promised);
    return { ...known, settings: promised };
  }
  return await catalog.repositories.add({ name, id, location, slots, settings: promised });
}

/**
 * What makes an encrypted repository may have been cut off before it stored the keys: then nobody could open what is written there.
 * @throws RepositoryError `key-missing`
 */
async function requireKeys(store: BlobStore, place: string): Promise<void> {
  if ((await store.statBlob(KEY_FILE)) !== undefined) return;
  throw new RepositoryError(
    'key-missing',
    KEY_FILE,
    `is not in ${place}, which is encrypted: nobody could open what is written there. If it holds no backups, remove ` +
      `${REPOSITORY_FILE} there and add it again with --encrypt`,
  );
}
