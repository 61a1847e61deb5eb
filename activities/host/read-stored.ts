import type { BlobStore } from '../../repository/blob-store.ts';
import { countManifests, findBackups } from '../../repository/find-backups.ts';
import { openRepository } from '../../repository/identity.ts';
import { inParallel } from '../../repository/in-parallel.ts';
import { isKeyError } from '../../repository/repository-error.ts';
import { keysFor, type RepositoryKeys } from '../../repository/repository-keys.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import type { FoundVm } from '../../schemas/rescan.ts';
import { withHeartbeat } from '../cancellation.ts';
import { pack } from '../packed.ts';
import type { HostDependencies } from './dependencies.ts';

/** VMs whose folders are looked through at once. */
const VMS_AT_ONCE = 16;
/** Backups of one answer: packed they are some 200 KB, with many disks each the fivefold. */
const BACKUPS_PER_PART = 1000;

/** How many manifests lie in the folder of a VM. */
export interface StoredVm {
  uuid: string;
  manifests: number;
}

export const createReadStored = ({ openStore }: HostDependencies) => ({
  /**
   * VMs that have a folder in the repository, sorted by UUID, from the one after `after` on.
   * @throws RepositoryForeign, RepositoryUnavailable: a listing that fails is none
   */
  async listStoredVms(repository: RepositoryRecord, after: string | null, limit: number): Promise<StoredVm[]> {
    return await withHeartbeat('listing the repository', async () => {
      const store = openStore(repository.location);
      await openRepository(store, repository);
      const counts = [...(await countManifests(store))].map(([uuid, manifests]) => ({ uuid, manifests }));
      return counts
        .filter(({ uuid }) => after === null || uuid > after)
        .toSorted((a, b) => (a.uuid < b.uuid ? -1 : 1))
        .slice(0, limit);
    });
  },

  /**
   * What the manifests of these VMs say, and whether their files are there: `foundVm[]`, packed, in so many parts that each
   * fits into an answer. Where names are hidden they are opened with the host's identity; without one that fits each such
   * backup is told of, with the reason. For a caller to whom the VMs are admitted, so that all parts tell of the same.
   */
  async readStoredVms(
    repository: RepositoryRecord,
    vmUuids: string[],
    part: number,
  ): Promise<{ packed: string; parts: number }> {
    return await withHeartbeat(`reading the manifests of ${vmUuids.length} VMs`, async () => {
      const store = openStore(repository.location);
      await openRepository(store, repository);
      const found = new Map<string, FoundVm>();
      const { keys, missing } = await keysAtHand(store, repository);
      await inParallel(vmUuids, VMS_AT_ONCE, async (uuid) => {
        const vm = await findBackups(store, uuid, keys);
        if (missing !== null) vm.sealed = vm.sealed.map(({ backupId }) => ({ backupId, message: missing }));
        found.set(uuid, vm);
      });
      const parts = inParts(vmUuids.flatMap((uuid) => found.get(uuid) ?? []));
      return { packed: pack(parts[part] ?? []), parts: parts.length };
    });
  },
});

/** The keys of an encrypted repository, or why this host has none. */
async function keysAtHand(
  store: BlobStore,
  repository: RepositoryRecord,
): Promise<{ keys: RepositoryKeys | null; missing: string | null }> {
  try {
    return { keys: await keysFor(store, repository), missing: null };
  } catch (error) {
    if (!isKeyError(error)) throw error;
    return { keys: null, missing: error.message };
  }
}

/** A VM with very many backups comes in pieces; what else there is to tell of it, with the first. */
function inParts(vms: readonly FoundVm[]): FoundVm[][] {
  const parts: FoundVm[][] = [[]];
  let room = BACKUPS_PER_PART;
  for (const vm of vms) {
    for (let from = 0; from === 0 || from < vm.backups.length;) {
      if (room === 0) {
        parts.push([]);
        room = BACKUPS_PER_PART;
      }
      const backups = vm.backups.slice(from, from + room);
      parts.at(-1)?.push(from === 0 ? { ...vm, backups } : { ...vm, backups, unreadable: [], sealed: [], surplus: [] });
      room -= backups.length;
      from += Math.max(1, backups.length);
    }
  }
  return parts;
}
