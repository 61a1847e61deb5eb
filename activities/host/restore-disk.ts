import { Context } from '@temporalio/activity';
import { rm } from 'node:fs/promises';
import { openRepository } from '../../repository/identity.ts';
import { keysFor } from '../../repository/repository-keys.ts';
import type { DiskToRestore, RestoreOfBackup } from '../../schemas/restore-plan.ts';
import { cancellationSignal } from '../cancellation.ts';
import { openChainFiles } from './chain-files.ts';
import type { HostDependencies } from './dependencies.ts';
import { diskOfFile, readManifestChain } from './restore-chain.ts';

/** Names the copies of a restore for the fence. */
export const restoreFence = (restoreId: string, target: string): string => `restore ${restoreId} ${target}`;

export const createRestoreDisk = ({ copier, openStore, fence }: HostDependencies) => ({
  /**
   * Writes one disk beside its place from its chain, every stored byte compared with the manifest's hashes. A new
   * attempt begins anew: the file beside counts for nothing until it is swapped in.
   * @throws IntegrityMismatch, BackupFileMissing, DestinationFull, RepositoryUnavailable, KeyMissing, KeyWrong
   */
  async restoreDisk(plan: RestoreOfBackup, disk: DiskToRestore): Promise<{ target: string; verifiedBytes: number }> {
    const context = Context.current();
    return await fence.run(restoreFence(plan.restoreId, disk.target), cancellationSignal(), async (signal) => {
      const heartbeat = { target: disk.target, copiedBytes: 0, totalBytes: 0, storedBytes: 0 };
      const pulse = setInterval(() => context.heartbeat(heartbeat), 1000);
      try {
        const store = openStore(plan.repository.location);
        await openRepository(store, plan.repository);
        const manifests = await readManifestChain(store, plan.vm.uuid, plan.backupId);
        const stored = disk.chain.map((link) => diskOfFile(manifests, link));
        const chain = await openChainFiles(store, await keysFor(store, plan.repository), stored);
        await rm(disk.besidePath, { force: true });
        const { verifiedBytes } = await copier.restoreDisk({
          chain,
          destination: { path: disk.besidePath, format: disk.format },
          virtualSizeBytes: disk.virtualSizeBytes,
          signal,
          onProgress: (progress) => {
            heartbeat.copiedBytes = progress.verifiedBytes;
            heartbeat.totalBytes = progress.totalBytes;
          },
        });
        return { target: disk.target, verifiedBytes };
      } catch (error) {
        signal.throwIfAborted();
        throw error;
      } finally {
        clearInterval(pulse);
      }
    });
  },
});
