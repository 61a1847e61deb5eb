import { repositoryIdentity } from '../schemas/manifest.ts';
import type { RepositoryIdentity, RepositoryOwner } from '../schemas/manifest.ts';
import { repositorySettings, settingsOf } from '../schemas/repository.ts';
import type { RepositoryEncryption, RepositoryRecord } from '../schemas/repository.ts';
import type { BlobStore } from './blob-store.ts';
import { BlobStoreError } from './blob-store.ts';
import { encodeJson, readJson } from './json-blob.ts';
import { REPOSITORY_FILE } from './layout.ts';
import { RepositoryError } from './repository-error.ts';

/** Version of layout and byte formats; docs/repository-format.md lists the changes. */
export const FORMAT_VERSION = 1;

/** What a repository should be, as a catalog or a plan has it. */
export type ExpectedRepository = Pick<RepositoryRecord, 'id' | 'settings'>;

/**
 * Reads `repository.json`.
 * @param expected refuse another repository, say one mounted in this one's place, one that another installation owns,
 *   and one that is not encrypted as it should be, or was until a rotation. Without it whatever lies there is taken, for those who only read.
 * @throws RepositoryError `not-a-repository`, `foreign`, `owned`, `encryption-mismatch`, `unsupported-version`, `invalid`;
 *   BlobStoreError
 */
export async function openRepository(store: BlobStore, expected?: ExpectedRepository): Promise<RepositoryIdentity> {
  const identity = await readJson(store, REPOSITORY_FILE, repositoryIdentity, {
    field: 'formatVersion',
    known: FORMAT_VERSION,
    maxBytes: 65_536,
  }).catch((error: unknown) => {
    if (error instanceof BlobStoreError && error.code === 'not-found') {
      throw new RepositoryError(
        'not-a-repository',
        REPOSITORY_FILE,
        `is missing: not a repository, or its file system is not mounted (${error.message})`,
        { cause: error },
      );
    }
    throw error;
  });
  if (expected !== undefined) requireSame(identity, expected);
  return identity;
}

function requireSame(found: RepositoryIdentity, expected: ExpectedRepository): void {
  if (found.id !== expected.id) {
    throw new RepositoryError('foreign', REPOSITORY_FILE, `is of repository ${found.id}, not of ${expected.id}`);
  }
  const { owner, encryption } = settingsOf(expected);
  if (found.owner !== undefined && found.owner.installation !== owner) {
    throw new RepositoryError('owned', REPOSITORY_FILE, ownedBy(found.owner));
  }
  const stored = found.encryption ?? null;
  if (!isEncryptedAs(stored, encryption)) {
    const words = (of: RepositoryEncryption | null): string =>
      of === null ? 'not encrypted' : `encrypted to ${of.recipient}${of.hideNames ? ', with names hidden' : ''}`;
    throw new RepositoryError(
      'encryption-mismatch',
      REPOSITORY_FILE,
      `says that the repository is ${words(stored)}, but it should be ${words(encryption)}`,
    );
  }
}

/** A run goes on with the recipient it was planned with, though a rotation has given the repository another meanwhile. */
function isEncryptedAs(stored: RepositoryEncryption | null, expected: RepositoryEncryption | null): boolean {
  if (stored === null || expected === null) return stored === expected;
  const recipients = [stored.recipient, ...(stored.former ?? [])];
  return stored.hideNames === expected.hideNames && recipients.includes(expected.recipient);
}

/** Words for the error `owned`. */
export const ownedBy = ({ installation, name, since }: RepositoryOwner): string =>
  `belongs to installation ${installation}${name === undefined ? '' : ` (${name})`} since ${since}: only one may write ` +
  'there. Use another place, or take it over on purpose: holdfast repo add --take-over';

/**
 * Makes a repository out of an empty place; one that is there already, with the same id, owner and encryption, is left
 * as it is.
 * @throws RepositoryError `foreign`, `owned`, `encryption-mismatch` when another repository is there; BlobStoreError
 */
export async function initRepository(
  store: BlobStore,
  { id, owner, encryption }: Pick<RepositoryIdentity, 'id' | 'owner' | 'encryption'>,
): Promise<RepositoryIdentity> {
  const expected: ExpectedRepository = {
    id,
    settings: repositorySettings.parse({ owner: owner?.installation, encryption }),
  };
  const present = await openRepository(store, expected).catch((error: unknown) => {
    if (error instanceof RepositoryError && error.code === 'not-a-repository') return undefined;
    throw error;
  });
  if (present) return present;
  const identity = repositoryIdentity.parse({
    id,
    formatVersion: FORMAT_VERSION,
    createdAt: new Date().toISOString(),
    encryption,
    owner,
  });
  await store.putBlob(REPOSITORY_FILE, encodeJson(identity)).catch((error: unknown) => {
    if (!(error instanceof BlobStoreError && error.code === 'exists')) throw error;
  });
  return openRepository(store, expected); // another process may have been first
}

/** Gives a repository that is there an owner, in place of the one it has. The former one is refused from then on. */
export async function giveRepositoryTo(
  store: BlobStore,
  { id, owner: former }: RepositoryIdentity,
  owner: RepositoryOwner,
): Promise<RepositoryIdentity> {
  const identity = await openRepository(store);
  if (identity.id !== id || identity.owner?.installation !== former?.installation) {
    throw new RepositoryError('owned', REPOSITORY_FILE, 'was changed by another installation just now; look again');
  }
  const taken: RepositoryIdentity = {
    ...identity,
    owner: { ...owner, ...(former === undefined ? {} : { former: former.installation }) },
  };
  await store.putBlob(REPOSITORY_FILE, encodeJson(repositoryIdentity.parse(taken)), { replace: true });
  return taken;
}

/** Tells in `repository.json` what new files are encrypted to, once the keys for it are stored. */
export async function changeRecipient(
  store: BlobStore,
  { id }: Pick<RepositoryRecord, 'id'>,
  encryption: RepositoryEncryption,
): Promise<void> {
  const identity = await openRepository(store);
  if (identity.id !== id)
    throw new RepositoryError('foreign', REPOSITORY_FILE, `is of repository ${identity.id}, not of ${id}`);
  const changed = repositoryIdentity.parse({ ...identity, encryption });
  await store.putBlob(REPOSITORY_FILE, encodeJson(changed), { replace: true });
}
