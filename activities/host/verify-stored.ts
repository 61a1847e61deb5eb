import { Context } from '@temporalio/activity';
import { z } from 'zod';
import { RatePace, slower, type Pace } from '../../copier/pace.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { inParallel } from '../../repository/in-parallel.ts';
import { readManifest } from '../../repository/manifest.ts';
import { readSums } from '../../repository/sums.ts';
import type { CheckedFile, CheckPlan, FileToCheck } from '../../schemas/check.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import type { CopyHeartbeat } from '../../schemas/plan.ts';
import { cancellationSignal } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { findingOf } from './hash-backup.ts';

/** What the next attempt knows of this one: by their place in the call, the files whose bytes were right. */
type CheckHeartbeat = CopyHeartbeat & { right: number[] };
const formerAttempt = z.object({ right: z.array(z.int()) });
const foundRight = (details: unknown): number[] => formerAttempt.safeParse(details).data?.right ?? [];

/** Small files would else wait for each other's first byte. */
const FILES_AT_ONCE = 4;

export const createVerifyStored = ({ copier, openStore, fence, paces }: HostDependencies) => ({
  /**
   * Reads every byte of these files and compares it with their manifests' hashes; no key is needed, for the hashes are of
   * what is stored. What is damaged is found, not thrown. A new attempt leaves out files that the former found right.
   * @param doneBytes what the check has read before, for the progress that people see
   * @throws RepositoryUnavailable, RepositoryForeign: then nothing is known
   */
  async verifyStored(plan: CheckPlan, files: FileToCheck[], doneBytes: number): Promise<CheckedFile[]> {
    const context = Context.current();
    const first = files[0]?.file ?? '';
    return await fence.run(`check ${plan.checkId} ${first}`, cancellationSignal(), async (signal) => {
      const heartbeat: CheckHeartbeat = {
        ...{ target: 'check', copiedBytes: doneBytes, totalBytes: plan.bytes, storedBytes: 0 },
        right: foundRight(context.info.heartbeatDetails),
      };
      const pulse = setInterval(() => context.heartbeat(heartbeat), 1000);
      try {
        const store = openStore(plan.repository.location);
        await openRepository(store, plan.repository);
        const rate = new RatePace(() => plan.rateBytesPerSecond);
        const pace = slower(await paces.of(store, plan.repository.id), rate);
        const manifests = new Map<string, Promise<Manifest>>();
        const checked = new Map<FileToCheck, CheckedFile>();
        await inParallel([...files.entries()], FILES_AT_ONCE, async ([index, file]) => {
          if (heartbeat.right.includes(index)) {
            checked.set(file, { file, outcome: 'right' });
            heartbeat.copiedBytes += file.storedBytes;
            return;
          }
          let before = 0;
          const onProgress = (verifiedBytes: number): void => {
            heartbeat.copiedBytes += verifiedBytes - before;
            before = verifiedBytes;
          };
          const manifest = manifests.get(file.backupId) ?? readManifest(store, file.vm.uuid, file.backupId);
          manifests.set(file.backupId, manifest);
          const found = await verify(store, file, manifest, { signal, pace, onProgress });
          checked.set(file, found);
          if (found.outcome === 'right') heartbeat.right.push(index);
        });
        await rate.ready(signal); // the next call begins with no debt: small files would else pass at any rate
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
