import { BlobStoreError } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { inParallel } from '../../repository/in-parallel.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupToLock } from '../../schemas/plan.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import { withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { isLocked, lockBackup } from './lock-backup.ts';

const BACKUPS_AT_ONCE = 8;

export const createLockStored = ({ openStore }: Pick<HostDependencies, 'openStore'>) => ({
  /**
   * Locks those of these published backups that are not: a run may have ended between manifest and lock, or the server may have
   * refused. Repeatable. Gives those that were not locked; of a backup that cannot be, why, and goes on with the others.
   * @throws RepositoryForeign, RepositoryUnavailable
   */
  async lockStored(
    repository: RepositoryRecord,
    backups: BackupToLock[],
    { dryRun }: { dryRun: boolean },
  ): Promise<{ unlocked: string[]; problems: string[] }> {
    return await withHeartbeat(`looking for the locks of ${backups.length} backups`, async () => {
      const store = openStore(repository.location);
      await openRepository(store, repository);
      const unlocked: string[] = [];
      const problems: string[] = [];
      await inParallel(backups, BACKUPS_AT_ONCE, async (backup) => {
        if (await isLocked(store, repository, backup)) return;
        unlocked.push(backup.id);
        if (dryRun) return;
        await lockBackup(store, repository, backup).catch((error: unknown) => {
          const isGone = error instanceof BlobStoreError && error.code === 'not-found';
          if (!isGone && !(error instanceof HoldfastError)) throw error; // the repository's trouble, not the backup's
          problems.push(`backup ${backup.id} cannot be locked: ${error.message}`);
        });
      });
      return { unlocked, problems };
    });
  },
});
