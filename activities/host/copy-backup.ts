import { Context } from '@temporalio/activity';
import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import { slower } from '../../copier/pace.ts';
import { storedLength } from '../../repository/age-file.ts';
import { checkChainFiles } from '../../repository/check-chain.ts';
import { openRepository } from '../../repository/identity.ts';
import { manifestKey, validationKey } from '../../repository/layout.ts';
import { createManifest, readManifest } from '../../repository/manifest.ts';
import { keysFor, type RepositoryKeys } from '../../repository/repository-keys.ts';
import { openBytes, sealBytes, sealManifest, unsealManifest } from '../../repository/sealed-manifest.ts';
import { decryptionProblem, type CopiedBackup, type CopyPlan } from '../../schemas/copy.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest, ManifestDisk } from '../../schemas/manifest.ts';
import type { CopyHeartbeat } from '../../schemas/plan.ts';
import { settingsOf, type RepositoryRecord } from '../../schemas/repository.ts';
import { cancellationSignal } from '../cancellation.ts';
import { requireOpening } from './chain-files.ts';
import { createCopyFile, type CopyWay } from './copy-file.ts';
import type { CopyNote } from './copy-notes.ts';
import type { HostDependencies } from './dependencies.ts';
import { lockBackup } from './lock-backup.ts';

/** What a file needs beyond its data: sums, and room for the manifest. */
const SPACE_MARGIN_BYTES = 16 * 1024 * 1024;
/** Screenshots are a few hundred KiB. */
const MAX_SCREENSHOT_BYTES = 16 * 1024 * 1024;

/** Names the copy of a backup for the fence. */
export const copyFence = (operationId: string): string => `copy ${operationId}`;

export async function openStoreOf(
  openStore: HostDependencies['openStore'],
  repository: RepositoryRecord,
): Promise<BlobStore> {
  const store = openStore(repository.location);
  await openRepository(store, repository);
  return store;
}

export const createCopyBackup = ({ copier, openStore, fence, paces, copies }: HostDependencies) => {
  const copyFile = createCopyFile(copier, copies);
  return {
    /**
     * Copies the files of a backup to another repository as they are stored, each segment once its hash is right, then its
     * manifest, and locks what the target promises to keep. Into an encrypted one they are encrypted on the way, which takes no identity; out of one they are opened on the
     * way, in memory, with the identity of its hosts. Repeatable: a new attempt goes on where the former one stopped; with a file
     * that gets another form it begins anew, because its key was in no note.
     * @throws IntegrityMismatch and BackupFileMissing of the original, BackupNotCopyable, EncryptionMismatch, KeyMissing, KeyWrong,
     *   RepositoryFull, RepositoryReadOnly, RepositoryUnavailable, TimeLimitReached
     */
    async copyBackupFiles(plan: CopyPlan): Promise<CopiedBackup> {
      const context = Context.current();
      return await fence.run(copyFence(plan.operationId), cancellationSignal(), async (fenced) => {
        requireForm(plan);
        const source = await openStoreOf(openStore, plan.from);
        const target = await openStoreOf(openStore, plan.to);
        const there = await presentCopy(target, plan);
        if (there !== undefined) {
          await locked(target, plan, there);
          return { ...contentOf(there), writtenBytes: 0 };
        }
        const stored = await readManifest(source, plan.vm.uuid, plan.backupId);
        await requireParent(target, plan, stored);
        const keys = await keysFor(source, plan.from);
        const manifest = await unsealManifest(stored, keys);
        await requireOpening(source, keys, manifest.disks);
        const note = await beginNote(plan);
        const deadline = new AbortController();
        const signal = AbortSignal.any([fenced, deadline.signal]);
        const { encryption } = settingsOf(plan.to);
        const sizes = manifest.disks.map((disk) => {
          const plainBytes = disk.encryption?.plainBytes ?? disk.storedBytes;
          return encryption === null ? plainBytes : storedLength(plainBytes);
        });
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
            const way: CopyWay = { source, target, keys, note, pace, signal, onProgress };
            const copied = await copyFile(way, disk);
            disks.push(copied.disk);
            writtenBytes += copied.writtenBytes;
            heartbeat.copiedBytes = before + copied.disk.storedBytes;
          }
          const screenshot = await copyScreenshot(source, target, keys, plan);
          signal.throwIfAborted();
          const { validationResult } = manifest;
          const copied: Manifest = {
            ...manifest,
            disks,
            ...(validationResult === undefined ? {} : { validationResult: { ...validationResult, screenshot } }),
            copiedFrom: { repositoryId: plan.from.id, copiedAt: new Date(note.startedMs).toISOString() },
          };
          const hideNames = encryption?.hideNames === true || settingsOf(plan.from).encryption?.hideNames === true;
          await createManifest(target, encryption ? await sealManifest(copied, { ...encryption, hideNames }) : copied);
          await locked(target, plan, copied);
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
};

/** Encryption is never silently off. @throws EncryptionMismatch */
function requireForm({ from, to, decrypt = false }: CopyPlan): void {
  const problem = decryptionProblem(from, to, { decrypt });
  if (problem !== undefined) throw new HoldfastError('EncryptionMismatch', problem);
}

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

/** What the target promises of its backups holds for copies too. */
const locked = (target: BlobStore, { vm, to }: CopyPlan, { id, instant }: Manifest): Promise<void> =>
  lockBackup(target, to, { vmUuid: vm.uuid, id, instant });

/** Nobody finds a copy whose parent's is not there. @throws BackupNotCopyable */
async function requireParent(target: BlobStore, { vm, to }: CopyPlan, { id, parentId }: Manifest): Promise<void> {
  if (parentId === null || (await target.statBlob(manifestKey(vm.uuid, parentId))) !== undefined) return;
  throw new HoldfastError(
    'BackupNotCopyable',
    `backup ${id} is built on ${parentId}, which has no manifest in repository ${to.name}; copy that one first`,
  );
}

async function requireSpace(target: BlobStore, { backupId, to }: CopyPlan, neededBytes: number): Promise<void> {
  const freeBytes = await target.freeSpaceBytes();
  if (freeBytes === undefined || freeBytes >= neededBytes + SPACE_MARGIN_BYTES) return;
  throw new HoldfastError(
    'RepositoryFull',
    `backup ${backupId} needs ${neededBytes} bytes in repository ${to.name} and ${SPACE_MARGIN_BYTES} to spare, ${freeBytes} are free; ` +
      'nothing was written',
  );
}

/** The picture that proves a validation goes along, where there is one. Its key in the target. */
async function copyScreenshot(
  source: BlobStore,
  target: BlobStore,
  keys: RepositoryKeys | null,
  { vm, backupId, to }: CopyPlan,
): Promise<string | null> {
  const { encryption } = settingsOf(to);
  const storedKey = validationKey(vm.uuid, backupId, { isEncrypted: keys !== null });
  const stored = await source.getBlob(storedKey, { maxBytes: MAX_SCREENSHOT_BYTES }).catch((error: unknown) => {
    if (error instanceof BlobStoreError && error.code === 'not-found') return undefined;
    throw error;
  });
  if (stored === undefined) return null;
  const picture = keys === null ? stored : await openBytes(stored, keys, storedKey);
  const key = validationKey(vm.uuid, backupId, { isEncrypted: encryption !== null });
  await target.putBlob(key, encryption ? await sealBytes(picture, encryption) : picture, { replace: true });
  return key;
}

const limitReached = ({ backupId, to, timeLimitSeconds }: CopyPlan): HoldfastError =>
  new HoldfastError(
    'TimeLimitReached',
    `copying backup ${backupId} to ${to.name}: the time limit of ${timeLimitSeconds} s was reached; what was copied of it is removed`,
  );
