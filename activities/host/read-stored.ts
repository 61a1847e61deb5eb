import { countManifests, findBackups } from '../../repository/find-backups.ts';
import { openRepository } from '../../repository/identity.ts';
import { inParallel } from '../../repository/in-parallel.ts';
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
   * fits into an answer. For a caller to whom the VMs are admitted, so that all parts tell of the same.
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
      await inParallel(vmUuids, VMS_AT_ONCE, async (uuid) => void found.set(uuid, await findBackups(store, uuid)));
      const parts = inParts(vmUuids.flatMap((uuid) => found.get(uuid) ?? []));
      return { packed: pack(parts[part] ?? []), parts: parts.length };
    });
  },
});

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
      parts.at(-1)?.push(from === 0 ? { ...vm, backups } : { ...vm, backups, unreadable: [], surplus: [] });
      room -= backups.length;
      from += Math.max(1, backups.length);
    }
  }
  return parts;
}
