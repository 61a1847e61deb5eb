import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption';
import { ageRecipient, settingsOf, type RepositoryRecord, type SecretReference } from '../schemas/repository.ts';
import { AgeError } from './age-file.ts';
import { ageErrorOf } from './age-head.ts';
import { BlobStoreError, type BlobStore } from './blob-store.ts';
import { KEY_FILE, RECIPIENTS_FILE } from './layout.ts';
import { RepositoryError } from './repository-error.ts';
import { readSecret, SecretError, secretPlace } from './secret.ts';

/**
 * The keys of an encrypted repository. Its files are encrypted to its own recipient alone; what opens them, its own identities,
 * lies in `keys/identity.age`, encrypted to the operators' recipients. So an operator is added by writing that one file anew.
 *
 * `keys/identity.age` holds text, as `age -i` takes it:
 * ```
 * # operator age1…           one line for each recipient of this file
 * AGE-SECRET-KEY-1…          identities of the repository, the one that new files are for first
 * ```
 */
export interface RepositoryKeys {
  /** `AGE-SECRET-KEY-1…`; secret. New files are for the first; the others open what was written before a rotation. */
  identities: string[];
  /** Whoever has the identity of one of these opens the repository. */
  operators: string[];
}

const MAX_KEY_FILE_BYTES = 1024 * 1024;
const OPERATOR = '# operator ';
const IDENTITY = 'AGE-SECRET-KEY-1';

/** Keys of a new repository, not stored yet, and the recipient that its settings name. */
export async function newRepositoryKeys(
  operators: readonly string[],
): Promise<{ keys: RepositoryKeys; recipient: string }> {
  const identity = await generateX25519Identity();
  return {
    keys: { identities: [identity], operators: [...operators] },
    recipient: await identityToRecipient(identity),
  };
}

/** The same keys with a new identity for new files. */
export async function rotatedKeys(keys: RepositoryKeys): Promise<{ keys: RepositoryKeys; recipient: string }> {
  const fresh = await newRepositoryKeys(keys.operators);
  return { ...fresh, keys: { ...keys, identities: [...fresh.keys.identities, ...keys.identities] } };
}

/**
 * Stores the keys, in place of those that are there, and the list of operators for people.
 * @throws RangeError for a recipient that is none; BlobStoreError
 */
export async function writeRepositoryKeys(store: BlobStore, { identities, operators }: RepositoryKeys): Promise<void> {
  if (operators.length === 0) throw new RangeError('nobody could open keys without an operator');
  const encrypter = new Encrypter();
  for (const operator of operators) encrypter.addRecipient(requireRecipient(operator));
  const lines = [...operators.map((operator) => `${OPERATOR}${operator}`), ...identities];
  const sealed = await encrypter.encrypt(`${lines.join('\n')}\n`);
  await store.putBlob(KEY_FILE, sealed, { replace: true });
  await store.putBlob(RECIPIENTS_FILE, Buffer.from(`${operators.join('\n')}\n`), { replace: true });
}

/**
 * The repository's own keys, by the identity of one of its operators.
 * @param repository its settings tell where the identity is
 * @throws RepositoryError `key-missing`, `key-wrong`, `encryption-mismatch` when the keys are not those of the settings; BlobStoreError
 */
export async function openRepositoryKeys(
  store: BlobStore,
  repository: Pick<RepositoryRecord, 'name' | 'settings'>,
): Promise<RepositoryKeys> {
  const { encryption, identity } = settingsOf(repository);
  if (identity === null) {
    throw new RepositoryError(
      'key-missing',
      KEY_FILE,
      `opens with an identity, and repository ${repository.name} has none for its hosts: ` +
        `holdfast repo set ${repository.name} --identity-file PATH`,
    );
  }
  const keys = await openKeysWith(store, await readIdentities(identity), secretPlace(identity));
  if (encryption !== null && !(await recipientsOf(keys)).includes(encryption.recipient)) {
    throw new RepositoryError(
      'encryption-mismatch',
      KEY_FILE,
      `has no identity for ${encryption.recipient}, which repository ${repository.name} is encrypted to`,
    );
  }
  return keys;
}

/** As `openRepositoryKeys`; null for a repository that is not encrypted. @throws as openRepositoryKeys */
export const keysFor = async (
  store: BlobStore,
  repository: Pick<RepositoryRecord, 'name' | 'settings'>,
): Promise<RepositoryKeys | null> =>
  settingsOf(repository).encryption === null ? null : await openRepositoryKeys(store, repository);

/**
 * The same for identities at hand.
 * @param place where they are from, for messages
 * @throws RepositoryError `key-missing` when the repository has no keys, `key-wrong`, `invalid`; BlobStoreError
 */
export async function openKeysWith(
  store: BlobStore,
  identities: readonly string[],
  place: string,
): Promise<RepositoryKeys> {
  const sealed = await store.getBlob(KEY_FILE, { maxBytes: MAX_KEY_FILE_BYTES }).catch((error: unknown) => {
    if (!(error instanceof BlobStoreError && error.code === 'not-found')) throw error;
    throw new RepositoryError('key-missing', KEY_FILE, 'is missing: nothing opens the files of this repository', {
      cause: error,
    });
  });
  const decrypter = new Decrypter();
  for (const each of identities) decrypter.addIdentity(each);
  const text = await decrypter.decrypt(sealed, 'text').catch((error: unknown) => {
    throw keyErrorOf(ageErrorOf(error), KEY_FILE, place);
  });
  const lines = text.split('\n');
  return {
    identities: lines.filter((line) => line.startsWith(IDENTITY)),
    operators: lines.filter((line) => line.startsWith(OPERATOR)).map((line) => line.slice(OPERATOR.length)),
  };
}

/** Recipients of the repository's own identities, in their order. */
export const recipientsOf = ({ identities }: RepositoryKeys): Promise<string[]> =>
  Promise.all(identities.map((identity) => identityToRecipient(identity)));

/** The operators as they stand in the open: whoever may write to the repository may have altered that list. */
export async function listedOperators(store: BlobStore): Promise<string[]> {
  const text = await store.getBlob(RECIPIENTS_FILE, { maxBytes: MAX_KEY_FILE_BYTES });
  return text
    .toString('utf8')
    .split('\n')
    .filter((line) => ageRecipient.safeParse(line).success);
}

/**
 * Reads identities as age-keygen writes them: a line each, and lines with `#`.
 * @throws RepositoryError `key-missing`, `key-wrong`
 */
export async function readIdentities(reference: SecretReference): Promise<string[]> {
  const text = await readSecret(reference).catch((error: unknown) => {
    if (error instanceof SecretError)
      throw new RepositoryError('key-missing', KEY_FILE, error.message, { cause: error });
    throw error;
  });
  const identities = text
    .split(/\r?\n/)
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  const decrypter = new Decrypter();
  try {
    for (const each of identities) decrypter.addIdentity(each);
  } catch (error) {
    throw new RepositoryError(
      'key-wrong',
      KEY_FILE,
      `${secretPlace(reference)} holds something that is no age identity`,
      {
        cause: error,
      },
    );
  }
  if (identities.length > 0) return identities;
  throw new RepositoryError('key-wrong', KEY_FILE, `${secretPlace(reference)} holds no age identity`);
}

/** @throws RangeError */
export function requireRecipient(text: string): string {
  try {
    const recipient = ageRecipient.parse(text);
    new Encrypter().addRecipient(recipient); // looks at its checksum
    return recipient;
  } catch (error) {
    throw new RangeError(`${JSON.stringify(text.slice(0, 80))} is no age recipient like age1…; age-keygen makes one`, {
      cause: error,
    });
  }
}

/** What an age file says about the key that was tried on it. */
export function keyErrorOf({ code, message }: AgeError, file: string, place: string): RepositoryError {
  return code === 'no-match'
    ? new RepositoryError('key-wrong', file, `does not open with the identity in ${place}`)
    : new RepositoryError('invalid', file, message);
}
