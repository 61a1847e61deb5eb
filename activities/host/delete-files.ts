import { openRepository } from '../../repository/identity.ts';
import { deleteManifest } from '../../repository/manifest.ts';
import type { BackupTarget } from '../../schemas/plan.ts';
import { withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';

export const createDeleteFiles = ({ openStore }: HostDependencies) => ({
  /**
   * Withdraws a backup: its manifest first, so that nobody finds half a backup, then its files. Repeatable.
   * @throws RepositoryUnavailable, RepositoryReadOnly
   */
  async deleteFiles(
    repository: BackupTarget['repository'],
    vmUuid: string,
    backup: { id: string; files: string[] },
  ): Promise<void> {
    await withHeartbeat('removing files', async () => {
      const store = openStore(repository.location);
      await openRepository(store, repository.id);
      await deleteManifest(store, vmUuid, backup.id);
      for (const file of backup.files) await store.deleteBlob(file);
    });
  },
});
