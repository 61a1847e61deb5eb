import type { BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { diskFileKey } from '../../repository/layout.ts';
import { settingsOf, type RepositoryLocation } from '../../schemas/repository.ts';
import type { BackupPlan } from '../../schemas/plan.ts';

/**
 * Names for the disks' files. Names go by the second: a backup taken within the second of the one before, or by a clock
 * that was set back, must not meet the other's files.
 */
export async function unusedFiles(
  openStore: (location: RepositoryLocation) => BlobStore,
  { target: { vm, repository }, disks }: BackupPlan,
  instant: string,
): Promise<string[]> {
  const store = openStore(repository.location);
  const isEncrypted = settingsOf(repository).encryption !== null;
  await openRepository(store, repository);
  for (let atMs = Date.parse(instant); ; atMs += 1000) {
    const files = disks.map(({ number, type }) =>
      diskFileKey({ vmUuid: vm.uuid, diskNumber: number, type, instant: new Date(atMs), isEncrypted }),
    );
    const taken = await Promise.all(files.map((file) => store.statBlob(file)));
    if (taken.every((info) => info === undefined)) return files;
  }
}
