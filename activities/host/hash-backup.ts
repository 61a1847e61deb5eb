import { Context } from '@temporalio/activity';
import { CopierError } from '../../copier/contract.ts';
import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { RepositoryError } from '../../repository/repository-error.ts';
import { readSums } from '../../repository/sums.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { HashProblem, ValidationPlan } from '../../schemas/validation.ts';
import { cancellationSignal } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { diskOfFile, filesOfDisk, readManifestChain, type ManifestChain } from './restore-chain.ts';

export interface HashedBackup {
  files: number;
  verifiedBytes: number;
  /** At most one per file: the first that was found in it. */
  problems: HashProblem[];
}

export const createHashBackup = ({ copier, openStore, fence, paces }: HostDependencies) => ({
  /**
   * Reads every stored byte that a backup needs, those of its ancestors included, and compares it with the manifests'
   * hashes. What is damaged is found, not thrown.
   * @throws RepositoryUnavailable, RepositoryForeign: then nothing is known
   */
  async hashBackup(plan: ValidationPlan): Promise<HashedBackup> {
    const context = Context.current();
    return await fence.run(`hash ${plan.validationId}`, cancellationSignal(), async (signal) => {
      const heartbeat = { target: 'hash', copiedBytes: 0, totalBytes: 0, storedBytes: 0 };
      const pulse = setInterval(() => context.heartbeat(heartbeat), 1000);
      try {
        const store = openStore(plan.repository.location);
        await openRepository(store, plan.repository);
        const found = await neededFiles(store, plan);
        if (!('chain' in found)) return { files: 0, verifiedBytes: 0, problems: [found] };
        const { chain, needed } = found;
        heartbeat.totalBytes = needed.reduce((sum, file) => sum + diskOfFile(chain, file).storedBytes, 0);
        const problems: HashProblem[] = [];
        const pace = await paces.of(store, plan.repository.id);
        let before = 0;
        for (const file of needed) {
          const stored = diskOfFile(chain, file);
          const message = await problemOf(async () => {
            const segments = await readSums(store, stored);
            await copier.verifyFile(
              { source: store.source(stored.file), storedBytes: stored.storedBytes, segments },
              { signal, pace, onProgress: (verifiedBytes) => void (heartbeat.copiedBytes = before + verifiedBytes) },
            );
          });
          if (message !== undefined) problems.push({ backupId: file.backupId, message });
          before += stored.storedBytes;
          heartbeat.copiedBytes = before;
        }
        return { files: needed.length, verifiedBytes: before, problems };
      } catch (error) {
        signal.throwIfAborted();
        throw error;
      } finally {
        clearInterval(pulse);
      }
    });
  },
});

/** Every file of every disk, base first, each once; or what is wrong with the manifests that should tell. */
async function neededFiles(
  store: BlobStore,
  plan: ValidationPlan,
): Promise<{ chain: ManifestChain; needed: { backupId: string; file: string }[] } | HashProblem> {
  try {
    const chain = await readManifestChain(store, plan.vm.uuid, plan.backupId);
    const disks = chain.get(plan.backupId)?.disks ?? [];
    return { chain, needed: disks.flatMap(({ target }) => filesOfDisk(chain, plan.backupId, target)) };
  } catch (error) {
    const message = findingOf(error);
    if (message === undefined) throw error;
    return { backupId: plan.backupId, message };
  }
}

async function problemOf(verify: () => Promise<void>): Promise<string | undefined> {
  try {
    await verify();
    return undefined;
  } catch (error) {
    const message = findingOf(error);
    if (message === undefined) throw error;
    return message;
  }
}

/** What an error says of the stored bytes; undefined when it only says that they could not be read. */
export function findingOf(error: unknown): string | undefined {
  const isFinding =
    (error instanceof CopierError && (error.code === 'integrity' || error.code === 'file-missing')) ||
    (error instanceof RepositoryError && error.code === 'invalid') ||
    (error instanceof BlobStoreError && ['not-found', 'too-large', 'invalid-key'].includes(error.code)) ||
    (error instanceof HoldfastError &&
      ['BackupFileMissing', 'BackupNotRestorable', 'IntegrityMismatch'].includes(error.type));
  return isFinding ? error.message : undefined;
}
