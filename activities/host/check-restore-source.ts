import type { RestoreOfBackup } from '../../schemas/restore-plan.ts';
import type { HostDependencies } from './dependencies.ts';
import { diskOfFile, filesOfDisk, requireFiles } from './restore-chain.ts';
import { openRestoreSource } from './restore-source.ts';

export const createCheckRestoreSource = (dependencies: HostDependencies) => ({
  /**
   * Whether a backup can be read from a repository: its chain's manifests, and the lengths of its files. Reads no content.
   * @throws RepositoryNotOnHost, RepositoryForeign, BackupFileMissing, BackupNotRestorable, IntegrityMismatch
   */
  async checkRestoreSource(plan: RestoreOfBackup): Promise<void> {
    const source = await openRestoreSource(dependencies, { ...plan, isOtherHost: true });
    const { store, manifest, chain } = source;
    const files = manifest.disks.flatMap(({ target }) => filesOfDisk(chain, plan.backupId, target));
    await requireFiles(
      store,
      files.map((file) => diskOfFile(chain, file)),
    );
  },
});
