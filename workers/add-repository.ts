import { randomUUID } from 'node:crypto';
import type { Catalog } from '../catalog/contract.ts';
import { initRepository, openRepository } from '../repository/identity.ts';
import { createBlobStore } from '../repository/open-repository.ts';
import { RepositoryError } from '../repository/repository-error.ts';
import { placeText, type RepositoryLocation, type RepositoryRecord } from '../schemas/repository.ts';
import { HoldfastError } from '../schemas/failures.ts';

const DEFAULT_SLOTS = 16;

/**
 * Makes a place a repository, or takes one that is there already, and notes it in the catalog.
 * @throws HoldfastError InvalidRequest when the name or the place is taken; BlobStoreError, RepositoryError
 */
export async function addRepository(
  catalog: Catalog,
  { name, location, slots = DEFAULT_SLOTS }: { name: string; location: RepositoryLocation; slots?: number },
): Promise<RepositoryRecord> {
  for (const known of await catalog.repositories.list()) {
    if (known.name === name) throw new HoldfastError('InvalidRequest', `name: a repository ${name} is there already`);
    if (placeText(known.location) === placeText(location)) {
      throw new HoldfastError('InvalidRequest', `location: ${placeText(location)} is repository ${known.name} already`);
    }
  }
  const store = await createBlobStore(location);
  const present = await openRepository(store).catch((error: unknown) => {
    if (error instanceof RepositoryError && error.code === 'not-a-repository') return undefined;
    throw error;
  });
  const { id } = present ?? (await initRepository(store, { id: randomUUID() }));
  return await catalog.repositories.add({ name, id, location, slots });
}
