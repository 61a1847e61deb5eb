import { Context } from '@temporalio/activity';
import { BlobStoreError, type BlobStore, type BlobUpload } from '../../repository/blob-store.ts';
import { slower, type Pace } from '../../copier/pace.ts';
import { storedLength } from '../../repository/age-file.ts';
import { checkChainFiles } from '../../repository/check-chain.ts';
import { openRepository } from '../../repository/identity.ts';
import { encryptedKey, manifestKey, validationKey } from '../../repository/layout.ts';
import { createManifest, filesNamedBy, listStoredManifests, readManifest } from '../../repository/manifest.ts';
import { sealBytes, sealManifest } from '../../repository/sealed-manifest.ts';
import { readSums, writeSums } from '../../repository/sums.ts';
import type { CopiedBackup, CopyPlan } from '../../schemas/copy.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest, ManifestDisk } from '../../schemas/manifest.ts';
import type { CopyHeartbeat } from '../../schemas/plan.ts';
import { settingsOf, type RepositoryEncryption, type RepositoryRecord } from '../../schemas/repository.ts';
import { cancellationSignal } from '../cancellation.ts';
import type { CopyNote } from './copy-notes.ts';
import type { HostDependencies } from './dependencies.ts';

/** What a file needs beyond its data: sums, and room for the manifest. */
const SPACE_MARGIN_BYTES = 16 * 1024 * 1024;
/** Screenshots are a few hundred KiB. */
const MAX_SCREENSHOT_BYTES = 16 * 1024 * 1024;

/** Names the copy of a backup for the fence. */
export const copyFence = (operationId: string): string => `copy ${operationId}`;

/** How the file of a disk is copied. */
interface Way {
  source: BlobStore;
  target: BlobStore;
  note: CopyNote;
  pace: Pace;
  signal: AbortSignal;
  onProgress: (doneBytes: number) => void;
}

export async function openStoreOf(
  openStore: HostDependencies['openStore'],
  repository: RepositoryRecord,
): Promise<BlobStore> {
  const store = openStore(repository.location);
  await openRepository(store, repository);
  return store;
}

export const createCopyBackup = ({ copier, openStore, fence, paces, copies }: HostDependencies) => {
  return {
    /**
     * Copies the files of a backup to another repository as they are stored, each segment once its hash is right, then its
     * manifest. Into an encrypted one they are encrypted on the way, which takes no identity. Repeatable: a new attempt goes on
     * where the former one stopped; with a file that is encrypted it begins anew, because its key was in no note.
     * @throws IntegrityMismatch and BackupFileMissing of the original, BackupNotCopyable, RepositoryFull, RepositoryReadOnly,
     *   RepositoryUnavailable, TimeLimitReached
     */
    async copyBackupFiles(plan: CopyPlan): Promise<CopiedBackup> {
      const context = Context.current();
      return await fence.run(copyFence(plan.operationId), cancellationSignal(), async (fenced) => {
        const source = await openStoreOf(openStore, plan.from);
        const target = await openStoreOf(openStore, plan.to);
        const there = await presentCopy(target, plan);
        if (there !== undefined) return { ...contentOf(there), writtenBytes: 0 };
        const manifest = await readManifest(source, plan.vm.uuid, plan.backupId);
        await requireParent(target, plan, manifest);
        const note = await beginNote(plan);
        const deadline = new AbortController();
        const signal = AbortSignal.any([fenced, deadline.signal]);
        const { encryption } = settingsOf(plan.to);
        const sizes = manifest.disks.map(({ storedBytes }) => (encryption ? storedLength(storedBytes) : storedBytes));
        const totalBytes = sizes.reduce((sum, sizeBytes) => sum + sizeBytes, 0);
        const pace = slower(await paces.of(source, plan.from.id), await paces.of(target, plan.to.id));
        const heartbeat: CopyHeartbeat = {
          target: plan.backupId.slice(0, 8),
          copiedBytes: 0,
          totalBytes,
          storedBytes: 0,
        };
        const beat = (): void => {
          context.heartbeat(heartbeat);
          // Looked at rather than timed: a timer cannot be set for more than 24 days.
          if (Date.now() - note.startedMs > plan.timeLimitSeconds * 1000) deadline.abort(limitReached(plan));
        };
        const pulse = setInterval(beat, 1000);
        try {
          beat();
          if (note.files.length === 0) await requireSpace(target, plan, totalBytes);
          let writtenBytes = 0;
          const disks: ManifestDisk[] = [];
          for (const disk of manifest.disks) {
            const before = heartbeat.copiedBytes;
            const onProgress = (doneBytes: number): void => void (heartbeat.copiedBytes = before + doneBytes);
            const way: Way = { source, target, note, pace, signal, onProgress };
            const copied = encryption ? await sealFile(way, disk, encryption) : await copyFile(way, disk);
            disks.push(copied.disk);
            writtenBytes += copied.writtenBytes;
            heartbeat.copiedBytes = before + copied.disk.storedBytes;
          }
          const screenshot = await copyScreenshot(source, target, plan);
          signal.throwIfAborted();
          const { validationResult } = manifest;
          const copied: Manifest = {
            ...manifest,
            disks,
            ...(validationResult === undefined ? {} : { validationResult: { ...validationResult, screenshot } }),
            copiedFrom: { repositoryId: plan.from.id, copiedAt: new Date(note.startedMs).toISOString() },
          };
          await createManifest(target, encryption ? await sealManifest(copied, encryption) : copied);
          return { ...contentOf(copied), writtenBytes };
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

  async function beginNote(plan: CopyPlan): Promise<CopyNote> {
    const noted = await copies.read(plan.operationId);
    if (noted !== undefined) return noted;
    const note: CopyNote = { plan, startedMs: Date.now(), files: [] };
    await copies.write(note); // before the first byte: what is begun must be found again
    return note;
  }

  /** What an earlier attempt finished is left as it is. */
  async function copyFile(
    { source, target, note, ...how }: Way,
    disk: ManifestDisk,
  ): Promise<{ disk: ManifestDisk; writtenBytes: number }> {
    const segments = await readSums(source, disk);
    const noted = note.files.find(({ file }) => file === disk.file);
    const former = noted && (await target.resumeUpload(disk.file, noted.token));
    if (noted !== undefined && former === undefined) {
      const isFinished = (await target.statBlob(disk.file))?.sizeBytes === disk.storedBytes;
      if (isFinished) return { disk, writtenBytes: 0 };
    }
    const upload = former ?? (await beginUpload(target, note, disk.file));
    const { writtenBytes } = await copier.transferFile({
      file: { source: source.source(disk.file), storedBytes: disk.storedBytes, segments },
      sink: upload.sink,
      resumed: former !== undefined,
      ...how,
    });
    await writeSums(target, disk.file, segments);
    await upload.finish(disk.storedBytes);
    return { disk, writtenBytes };
  }

  /** What an earlier attempt finished is left as it is; what it began is removed. */
  async function sealFile(
    { source, target, note, ...how }: Way,
    disk: ManifestDisk,
    { recipient }: RepositoryEncryption,
  ): Promise<{ disk: ManifestDisk; writtenBytes: number }> {
    const file = encryptedKey(disk.file);
    const backingFile = disk.backingFile === null ? null : encryptedKey(disk.backingFile);
    const noted = note.files.find((each) => each.file === file);
    const former = noted && (await target.resumeUpload(file, noted.token));
    if (noted?.sealed !== undefined && former === undefined) {
      const isFinished = (await target.statBlob(file))?.sizeBytes === noted.sealed.storedBytes;
      if (isFinished) return { disk: { ...disk, file, backingFile, ...noted.sealed }, writtenBytes: 0 };
    }
    await former?.abort();
    const segments = await readSums(source, disk);
    const upload = await beginUpload(target, note, file);
    const { storedBytes, plainBytes, ...written } = await copier.sealFile({
      file: { source: source.source(disk.file), storedBytes: disk.storedBytes, segments },
      sink: upload.sink,
      recipient,
      ...how,
    });
    const sums = await writeSums(target, file, written.segments);
    const sealed = { storedBytes, encryption: { format: 'age' as const, plainBytes }, sums };
    note.files = note.files.map((each) => (each.file === file ? { ...each, sealed } : each));
    await copies.write(note);
    await upload.finish(storedBytes);
    return { disk: { ...disk, file, backingFile, ...sealed }, writtenBytes: storedBytes };
  }

  async function beginUpload(target: BlobStore, note: CopyNote, file: string): Promise<BlobUpload> {
    const upload = await target.createUpload(file, { expectedBytes: 0 }).catch(async (error: unknown) => {
      if (!(error instanceof BlobStoreError) || error.code !== 'exists') throw error;
      await requireUnnamed(target, note.plan, file);
      await target.deleteBlob(file); // begun by an attempt that was killed before it noted its token
      return await target.createUpload(file, { expectedBytes: 0 });
    });
    note.files = [...note.files.filter((each) => each.file !== file), { file, token: upload.token }];
    await copies.write(note);
    return upload;
  }
};

/** What is in the target of a backup that has its manifest there; undefined when it has none. */
async function presentCopy(target: BlobStore, { vm, backupId, to }: CopyPlan): Promise<Manifest | undefined> {
  const manifest = await readManifest(target, vm.uuid, backupId).catch((error: unknown) => {
    if (error instanceof BlobStoreError && error.code === 'not-found') return undefined;
    throw error;
  });
  if (manifest === undefined) return undefined;
  const files = manifest.disks.map(({ file, storedBytes }) => ({ key: file, storedBytes }));
  const [problem] = await checkChainFiles(target, files);
  if (problem === undefined) return manifest;
  throw new HoldfastError(
    'BackupNotCopyable',
    `repository ${to.name} has a manifest of backup ${backupId}, and its file ${problem.key} is ${problem.problem}; delete that ` +
      `copy, then copy again: holdfast backup delete ${backupId} --repo ${to.name}`,
  );
}

const contentOf = ({ type, parentId, disks }: Manifest): Omit<CopiedBackup, 'writtenBytes'> => ({
  type,
  parentId,
  disks,
});

/** Nobody finds a copy whose parent's is not there. @throws BackupNotCopyable */
async function requireParent(target: BlobStore, { vm, to }: CopyPlan, { id, parentId }: Manifest): Promise<void> {
  if (parentId === null || (await target.statBlob(manifestKey(vm.uuid, parentId))) !== undefined) return;
  throw new HoldfastError(
    'BackupNotCopyable',
    `backup ${id} is built on ${parentId}, which has no manifest in repository ${to.name}; copy that one first`,
  );
}

/** Two backups of one VM have files of one name only where somebody put them there. @throws BackupNotCopyable */
async function requireUnnamed(target: BlobStore, { vm, backupId, to }: CopyPlan, file: string): Promise<void> {
  for await (const { backupId: other, manifest, error } of listStoredManifests(target, vm.uuid)) {
    if (error !== undefined) throw error;
    if (!filesNamedBy(manifest).includes(file)) continue;
    throw new HoldfastError(
      'BackupNotCopyable',
      `backup ${backupId}: its file ${file} is in repository ${to.name} already, as a file of backup ${other}`,
    );
  }
}

async function requireSpace(target: BlobStore, { backupId, to }: CopyPlan, neededBytes: number): Promise<void> {
  const freeBytes = await target.freeSpaceBytes();
  if (freeBytes === undefined || freeBytes >= neededBytes + SPACE_MARGIN_BYTES) return;
  throw new HoldfastError(
    'RepositoryFull',
    `backup ${backupId} needs ${neededBytes} bytes in repository ${to.name}, ${freeBytes} are free; nothing was written`,
  );
}

/** The picture that proves a validation goes along, where there is one. Its key in the target. */
async function copyScreenshot(
  source: BlobStore,
  target: BlobStore,
  { vm, backupId, to }: CopyPlan,
): Promise<string | null> {
  const { encryption } = settingsOf(to);
  const options = { maxBytes: MAX_SCREENSHOT_BYTES };
  const picture = await source.getBlob(validationKey(vm.uuid, backupId), options).catch((error: unknown) => {
    if (error instanceof BlobStoreError && error.code === 'not-found') return undefined;
    throw error;
  });
  if (picture === undefined) return null;
  const key = validationKey(vm.uuid, backupId, { isEncrypted: encryption !== null });
  await target.putBlob(key, encryption ? await sealBytes(picture, encryption) : picture, { replace: true });
  return key;
}

const limitReached = ({ backupId, to, timeLimitSeconds }: CopyPlan): HoldfastError =>
  new HoldfastError(
    'TimeLimitReached',
    `copying backup ${backupId} to ${to.name}: the time limit of ${timeLimitSeconds} s was reached; what was copied of it is removed`,
  );
