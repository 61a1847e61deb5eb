import { Context } from '@temporalio/activity';
import type { BlobStore } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { nameOfKey, rewriteKey, sumsKey } from '../../repository/layout.ts';
import { readManifest, readStoredManifest } from '../../repository/manifest.ts';
import { keysFor, type RepositoryKeys } from '../../repository/repository-keys.ts';
import { writeSums } from '../../repository/sums.ts';
import { settingsOf } from '../../schemas/repository.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest, ManifestDisk } from '../../schemas/manifest.ts';
import type { CopyHeartbeat } from '../../schemas/plan.ts';
import type { RewritePlan, RewrittenFiles } from '../../schemas/rewrite-plan.ts';
import { cancellationSignal } from '../cancellation.ts';
import { openChainFiles } from './chain-files.ts';
import type { HostDependencies } from './dependencies.ts';
import { requireUnlocked } from './lock-backup.ts';
import type { RewriteNote } from './rewrite-notes.ts';

/** What a file needs beyond its data: sums, and room for the manifest. */
const SPACE_MARGIN_BYTES = 16 * 1024 * 1024;

/** Names the rewriting of a backup for the fence. */
export const rewriteFence = (operationId: string): string => `rewrite ${operationId}`;

type WrittenFile = NonNullable<RewriteNote['done'][number]['rewritten']>;

export const createRewriteBackup = ({ copier, openStore, fence, paces, rewrites }: HostDependencies) => {
  return {
    /**
     * Writes the files of a backup anew, beside, and compares them with those they are made from. Repeatable: a new attempt
     * goes on with the first disk that is not finished. Changes nothing that a manifest names.
     * @throws BackupLocked, KeyMissing, KeyWrong, IntegrityMismatch, BackupFileMissing, RepositoryFull, RepositoryReadOnly, RepositoryUnavailable, TimeLimitReached
     */
    async rewriteBackup(plan: RewritePlan): Promise<RewrittenFiles> {
      const context = Context.current();
      return await fence.run(rewriteFence(plan.operationId), cancellationSignal(), async (fenced) => {
        const store = openStore(plan.repository.location);
        await openRepository(store, plan.repository);
        const manifest = await readStoredManifest(store, plan.vm.uuid, plan.backupId);
        if (manifest.disks.some(({ replacement }) => replacement)) return { disks: [], found: 'unfinished' };
        if (isDone(plan, manifest)) return { disks: [], found: 'done' };
        const keys = await keysFor(store, plan.repository); // before anything is begun
        const wanted = manifest.disks.filter((disk) => isWanted(plan, disk));
        await requireUnlocked(
          store,
          plan.backupId,
          wanted.map(({ file }) => file),
        );
        const note = await beginNote(plan, manifest);
        const deadline = new AbortController();
        const signal = AbortSignal.any([fenced, deadline.signal]);
        const heartbeat: CopyHeartbeat = { target: '', copiedBytes: 0, totalBytes: 0, storedBytes: 0 };
        const beat = (): void => {
          context.heartbeat(heartbeat);
          // Looked at rather than timed: a timer cannot be set for more than 24 days.
          if (Date.now() - note.startedMs > plan.timeLimitSeconds * 1000) deadline.abort(limitReached(plan));
        };
        const pulse = setInterval(beat, 1000);
        try {
          beat();
          for (const disk of wanted) {
            if (note.done.some(({ file }) => file === disk.file)) continue;
            heartbeat.target = disk.target;
            const rewritten = await rewriteDisk(store, plan, { manifest, disk, keys }, { signal, heartbeat });
            note.done.push({ file: disk.file, rewritten });
            await rewrites.write(note);
          }
          return { disks: note.done.flatMap(({ rewritten }) => rewritten ?? []), found: 'rewritten' };
        } catch (error) {
          fenced.throwIfAborted();
          deadline.signal.throwIfAborted();
          throw error;
        } finally {
          clearInterval(pulse);
        }
      });
    },
  };

  async function beginNote(plan: RewritePlan, manifest: Manifest): Promise<RewriteNote> {
    const noted = await rewrites.read(plan.operationId);
    if (noted !== undefined) return noted;
    const files = manifest.disks.map(({ file }) => file);
    const note: RewriteNote = { plan, startedMs: Date.now(), files, done: [] };
    await rewrites.write(note); // before the first byte: what is begun must be found again
    return note;
  }

  /** The new file of one disk; null when it would not be shorter. */
  async function rewriteDisk(
    store: BlobStore,
    plan: RewritePlan,
    { manifest, disk, keys }: { manifest: Manifest; disk: ManifestDisk; keys: RepositoryKeys | null },
    { signal, heartbeat }: { signal: AbortSignal; heartbeat: CopyHeartbeat },
  ): Promise<WrittenFile | null> {
    const below = plan.operation === 'mergeBackups' ? await diskBeneath(store, manifest, disk) : undefined;
    const stored = [...(below === undefined ? [] : [below]), disk];
    const chain = await openChainFiles(store, keys, stored);
    // The file keeps its name, so what was encrypted stays so.
    const recipient = disk.encryption && settingsOf(plan.repository).encryption?.recipient;
    const temporary = rewriteKey(disk.file, plan.operationId);
    await store.deleteBlob(temporary); // an attempt that was cut off
    await store.deleteBlob(sumsKey(temporary));
    const neededBytes = stored.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
    await requireSpace(store, plan, disk, neededBytes);
    const upload = await store.createUpload(temporary, { expectedBytes: 0 });
    const isLayered = below === undefined && disk.backingFile !== null;
    const { storedBytes, plainBytes, segments, clusterBytes, describedBytes } = await copier.rewriteFile({
      chain,
      ...(isLayered ? { backingFileName: nameOfKey(disk.backingFile ?? '') } : {}),
      virtualSizeBytes: disk.virtualSizeBytes,
      compression: plan.compression,
      ...(recipient === undefined ? {} : { recipient }),
      sink: upload.sink,
      finish: async (totalBytes) => {
        await upload.finish(totalBytes);
        return store.source(temporary);
      },
      otherThanBytes: disk.storedBytes,
      signal,
      pace: await paces.of(store, plan.repository.id),
      onProgress: ({ doneBytes, totalBytes }) => void Object.assign(heartbeat, { copiedBytes: doneBytes, totalBytes }),
    });
    if (below === undefined && storedBytes >= disk.storedBytes) {
      await store.deleteBlob(temporary);
      return null;
    }
    const sums = await writeSums(store, temporary, segments);
    const { replacement: _, encryption: __, ...same } = disk;
    const encryption = plainBytes === undefined ? {} : { encryption: { format: 'age' as const, plainBytes } };
    const asFull =
      below === undefined
        ? {}
        : { type: 'full' as const, fullReason: 'merged' as const, backingFile: null, changedBytes: describedBytes };
    return {
      formerSums: disk.sums.sha256,
      replacement: {
        ...same,
        ...encryption,
        ...asFull,
        storedBytes,
        clusterBytes,
        sums,
        temporary,
        compression: plan.compression,
      },
    };
  }
};

/** An earlier run came to its end, and only the catalog does not know. */
const isDone = ({ operation }: RewritePlan, manifest: Manifest): boolean =>
  operation === 'compressBackup' ? manifest.compression === 'zstd' : manifest.type === 'full';

const isWanted = ({ operation }: RewritePlan, { backingFile }: ManifestDisk): boolean =>
  operation === 'compressBackup' || backingFile !== null;

/** The full that a disk to be merged is layered on. @throws BackupNotCompressible */
async function diskBeneath(store: BlobStore, manifest: Manifest, disk: ManifestDisk): Promise<ManifestDisk> {
  const parent =
    manifest.parentId === null ? undefined : await readManifest(store, manifest.vm.uuid, manifest.parentId);
  const below = parent?.disks.find(({ file }) => file === disk.backingFile);
  if (below?.backingFile === null) return below;
  const what = below === undefined ? 'is not in the manifest of its parent' : 'is an increment itself';
  throw new HoldfastError(
    'BackupNotCompressible',
    `disk ${disk.target} of backup ${manifest.id} cannot be merged: ${disk.backingFile ?? 'the file beneath'} ${what}`,
  );
}

async function requireSpace(
  store: BlobStore,
  plan: RewritePlan,
  disk: ManifestDisk,
  neededBytes: number,
): Promise<void> {
  const freeBytes = await store.freeSpaceBytes();
  if (freeBytes === undefined || freeBytes >= neededBytes + SPACE_MARGIN_BYTES) return;
  throw new HoldfastError(
    'RepositoryFull',
    `disk ${disk.target} of backup ${plan.backupId} needs up to ${neededBytes} bytes beside its file in repository ` +
      `${plan.repository.name} and ${SPACE_MARGIN_BYTES} to spare, ${freeBytes} are free; nothing was written`,
  );
}

const limitReached = ({ backupId, timeLimitSeconds }: RewritePlan): HoldfastError =>
  new HoldfastError(
    'TimeLimitReached',
    `rewriting backup ${backupId}: the time limit of ${timeLimitSeconds} s was reached; its files stay as they were`,
  );
