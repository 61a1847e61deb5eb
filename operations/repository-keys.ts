import type { Catalog } from '../catalog/contract.ts';
import type { BlobStore } from '../repository/blob-store.ts';
import { changeRecipient, openRepository } from '../repository/identity.ts';
import { openBlobStore } from '../repository/open-repository.ts';
import {
  listedOperators,
  openRepositoryKeys,
  recipientsOf,
  rotatedKeys,
  writeRepositoryKeys,
  type RepositoryKeys,
} from '../repository/repository-keys.ts';
import { HoldfastError } from '../schemas/failures.ts';
import {
  settingsOf,
  type RepositoryEncryption,
  type RepositoryRecord,
  type SecretReference,
} from '../schemas/repository.ts';

/** An encrypted repository, and an identity on this machine that opens it; undefined = where its hosts find theirs. */
interface Opened {
  record: RepositoryRecord;
  encryption: RepositoryEncryption;
  store: BlobStore;
}

/** Who can open a repository. Needs no identity, so it is what the list in the open says. */
export async function listOperators(
  catalog: Catalog,
  name: string,
): Promise<{ recipient: string; operators: string[] }> {
  const { encryption, store } = await encryptedRepository(catalog, name);
  return { recipient: encryption.recipient, operators: await listedOperators(store) };
}

/** Lets one more recipient open the repository, all that is in it already too. Returns all of them. */
export const addOperator = (
  catalog: Catalog,
  { name, operator, identity }: { name: string; operator: string; identity?: SecretReference | undefined },
): Promise<string[]> =>
  catalog.repositories.alone(async () => {
    const opened = await encryptedRepository(catalog, name);
    const keys = await keysOf(opened, identity);
    if (keys.operators.includes(operator)) return keys.operators;
    const operators = [...keys.operators, operator];
    await writeRepositoryKeys(opened.store, { ...keys, operators });
    return operators;
  });

/**
 * Takes a recipient off the list. Whoever had the key still opens what was written until now, from any copy of the key file he kept.
 * @throws HoldfastError InvalidRequest for one that is not there, and for the last one
 */
export const removeOperator = (
  catalog: Catalog,
  {
    name,
    operator,
    identity,
    dryRun,
  }: { name: string; operator: string; identity?: SecretReference | undefined; dryRun: boolean },
): Promise<string[]> =>
  catalog.repositories.alone(async () => {
    const opened = await encryptedRepository(catalog, name);
    const keys = await keysOf(opened, identity);
    if (!keys.operators.includes(operator)) {
      throw new HoldfastError(
        'InvalidRequest',
        `recipient: ${operator} is none of those who can open repository ${name}`,
      );
    }
    const operators = keys.operators.filter((each) => each !== operator);
    if (operators.length === 0) {
      throw new HoldfastError('InvalidRequest', `recipient: ${operator} is the last one; add another before it goes`);
    }
    if (!dryRun) await writeRepositoryKeys(opened.store, { ...keys, operators });
    return operators;
  });

/**
 * Gives the repository a new identity for what is written from now on; the former ones stay in the key file and open what
 * they opened. Runs that were begun finish with the recipient they began with. Cut off before `repository.json` names the new
 * recipient, all goes on with the former one; run it again.
 */
export const rotateRepositoryKey = (
  catalog: Catalog,
  { name, identity }: { name: string; identity?: SecretReference | undefined },
): Promise<{ recipient: string }> =>
  catalog.repositories.alone(async () => {
    const opened = await encryptedRepository(catalog, name);
    const { keys, recipient } = await rotatedKeys(await keysOf(opened, identity));
    await writeRepositoryKeys(opened.store, keys);
    const former = (await recipientsOf(keys)).filter((each) => each !== recipient);
    const encryption = { ...opened.encryption, recipient, former };
    await changeRecipient(opened.store, opened.record, encryption);
    await catalog.repositories.changeSettings(name, { ...settingsOf(opened.record), encryption });
    return { recipient };
  });

const keysOf = ({ record, store }: Opened, identity: SecretReference | undefined): Promise<RepositoryKeys> =>
  openRepositoryKeys(
    store,
    identity === undefined ? record : { ...record, settings: { ...settingsOf(record), identity } },
  );

async function encryptedRepository(catalog: Catalog, name: string): Promise<Opened> {
  const record = await catalog.repositories.find(name);
  if (record === undefined) throw new HoldfastError('RepositoryNotFound', `there is no repository ${name}`);
  const { encryption } = settingsOf(record);
  if (encryption === null) throw new HoldfastError('InvalidRequest', `repository ${name} is not encrypted`);
  const store = openBlobStore(record.location);
  await openRepository(store, record);
  return { record, encryption, store };
}
