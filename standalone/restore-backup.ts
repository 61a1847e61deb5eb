import { mkdir, rmdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { openChainFiles } from '../activities/host/chain-files.ts';
import { fileId, publishFile, removeFile, syncFolder } from '../activities/host/publish-file.ts';
import { diskOfFile } from '../activities/host/restore-chain.ts';
import type { CopierPool } from '../copier/contract.ts';
import { errnoOf } from '../repository/file-errors.ts';
import type { RestoredVm } from '../schemas/backup.ts';
import type { CopyHeartbeat } from '../schemas/plan.ts';
import { writeNewFile } from './new-file.ts';
import type { OpenPlace } from './open-place.ts';
import type { StandaloneDisk, StandalonePlan } from './plan-restore.ts';

export interface StandaloneRestored extends RestoredVm {
  backup: StandalonePlan['backup'];
  folder: string;
  /** Stored bytes that were read and matched the hashes, of all disks. */
  verifiedBytes: number;
  /** The definition that goes with the disks; null when only some of them were wanted. */
  definition: string | null;
  /** What else was written: UEFI variables, TPM state. */
  files: { kind: string; path: string }[];
}

/**
 * Writes the disks beside their places, every stored byte compared with its hash, and gives them their names when all are
 * there; then the small files, the definition last. What fails or is aborted leaves nothing behind.
 * @throws CopierError, BlobStoreError, RepositoryError; HoldfastError DestinationExists; the signal's reason
 */
export async function restoreBackup(
  { store, keys }: OpenPlace,
  plan: StandalonePlan,
  {
    copier,
    signal,
    onProgress,
  }: { copier: CopierPool; signal: AbortSignal; onProgress: (copy: CopyHeartbeat) => void },
): Promise<StandaloneRestored> {
  const written = new Written();
  try {
    let verifiedBytes = 0;
    await written.folder(plan.folder);
    for (const disk of plan.disks) verifiedBytes += await writeDisk(disk);
    for (const { besidePath, path } of plan.disks) {
      await written.note(besidePath, path);
      await publishFile(besidePath, path);
    }
    for (const file of plan.files) {
      signal.throwIfAborted();
      await written.folder(dirname(file.path));
      await writeNewFile(file, () => written.note(file.path));
    }
    await syncFolder(plan.folder);
    const kept = plan.files.filter(({ kind }) => kind !== 'definition');
    return {
      vm: plan.vm,
      disks: plan.disks.map(({ target, path }) => ({ target, path, verified: true })),
      backup: plan.backup,
      folder: plan.folder,
      verifiedBytes,
      definition: plan.definition?.path ?? null,
      files: kept.map(({ kind, path }) => ({ kind, path })),
      ...(plan.warnings.length === 0 ? {} : { warnings: plan.warnings }),
    };
  } catch (error) {
    await written.remove();
    throw error;
  }

  async function writeDisk({ target, chain, besidePath, format, virtualSizeBytes }: StandaloneDisk): Promise<number> {
    const stored = chain.map((link) => diskOfFile(plan.chain, link));
    const { verifiedBytes } = await copier.restoreDisk({
      chain: await openChainFiles(store, keys, stored),
      destination: { path: besidePath, format },
      virtualSizeBytes,
      signal,
      onProgress: (progress) =>
        onProgress({
          target,
          copiedBytes: progress.verifiedBytes,
          totalBytes: progress.totalBytes,
          storedBytes: progress.verifiedBytes,
        }),
    });
    await written.note(besidePath);
    return verifiedBytes;
  }
}

/** What a restore has made so far, so that nothing else is removed when it fails. */
class Written {
  readonly #files: { path: string; id: string }[] = [];
  readonly #folders: string[] = [];

  /** Makes the folder and those above it. */
  async folder(path: string): Promise<void> {
    const first = await mkdir(path, { recursive: true, mode: 0o711 });
    if (first === undefined) return;
    for (let made = path; made.length >= first.length; made = dirname(made)) this.#folders.push(made);
  }

  /** A file of ours, under all the names it has or is about to get. */
  async note(present: string, ...coming: string[]): Promise<void> {
    const id = await fileId(present);
    if (id !== undefined) for (const path of [present, ...coming]) this.#files.push({ path, id });
  }

  async remove(): Promise<void> {
    for (const { path, id } of this.#files.toReversed()) await removeFile(path, id);
    for (const path of this.#folders.toSorted().toReversed()) {
      await rmdir(path).catch((error: unknown) => {
        if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(errnoOf(error) ?? '')) throw error; // somebody uses it by now
      });
    }
  }
}
