import { Context } from '@temporalio/activity';
import { RatePace, slower, type Pace } from '../../copier/pace.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { inParallel } from '../../repository/in-parallel.ts';
import { readManifest } from '../../repository/manifest.ts';
import { readSums } from '../../repository/sums.ts';
import type { CheckedFile, CheckPlan, FileToCheck } from '../../schemas/check.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import { cancellationSignal } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { findingOf } from './hash-backup.ts';

/** Small files would else wait for each other's first byte. */
const FILES_AT_ONCE = 4;

export const createVerifyStored = ({ copier, openStore, fence, paces }: HostDependencies) => ({
  /**
   * Reads every byte of these files and compares it with their manifests' hashes; no key is needed, for the hashes are of
   * what is stored. What is damaged is found, not thrown.
   * @param doneBytes what the check has read before, for the progress that people see
   * @throws RepositoryUnavailable, RepositoryForeign: then nothing is known
   */
  async verifyStored(plan: CheckPlan, files: FileToCheck[], doneBytes: number): Promise<CheckedFile[]> {
    const context = Context.current();
    const first = files[0]?.file ?? '';
    return await fence.run(`check ${plan.checkId} ${first}`, cancellationSignal(), async (signal) => {
      const heartbeat = { target: 'check', copiedBytes: doneBytes, totalBytes: plan.bytes, storedBytes: 0 };
      const pulse = setInterval(() => context.heartbeat(heartbeat), 1000);
      try {
        const store = openStore(plan.repository.location);
        await openRepository(store, plan.repository);
        const pace = slower(await paces.of(store, plan.repository.id), new RatePace(() => plan.rateBytesPerSecond));
        const manifests = new Map<string, Promise<Manifest>>();
        const checked = new Map<FileToCheck, CheckedFile>();
        await inParallel(files, FILES_AT_ONCE, async (file) => {
          let before = 0;
          const onProgress = (verifiedBytes: number): void => {
            heartbeat.copiedBytes += verifiedBytes - before;
            before = verifiedBytes;
          };
          const manifest = manifests.get(file.backupId) ?? readManifest(store, file.vm.uuid, file.backupId);
          manifests.set(file.backupId, manifest);
          checked.set(file, await verify(store, file, manifest, { signal, pace, onProgress }));
        });
        return files.flatMap((file) => checked.get(file) ?? []);
      } catch (error) {
        signal.throwIfAborted();
        throw error;
      } finally {
        clearInterval(pulse);
      }
    });

    async function verify(
      store: BlobStore,
      file: FileToCheck,
      manifest: Promise<Manifest>,
      how: { signal: AbortSignal; pace: Pace; onProgress: (verifiedBytes: number) => void },
    ): Promise<CheckedFile> {
      try {
        const stored = (await manifest).disks.find((disk) => disk.file === file.file);
        if (stored === undefined) return { file, outcome: 'gone' };
        const segments = await readSums(store, stored);
        await copier.verifyFile({ source: store.source(stored.file), storedBytes: stored.storedBytes, segments }, how);
        return { file, outcome: 'right' };
      } catch (error) {
        const message = findingOf(error);
        if (message === undefined) throw error;
        return { file, outcome: 'damaged', message };
      }
    }
  },
});
