import type { CopierPool } from '../../copier/contract.ts';
import type { Pace } from '../../copier/pace.ts';
import { BlobStoreError, type BlobStore, type BlobUpload } from '../../repository/blob-store.ts';
import { encryptedKey, plainKey } from '../../repository/layout.ts';
import { filesNamedBy, listStoredManifests } from '../../repository/manifest.ts';
import type { RepositoryKeys } from '../../repository/repository-keys.ts';
import { readSums, writeSums } from '../../repository/sums.ts';
import type { CopyPlan } from '../../schemas/copy.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { ManifestDisk } from '../../schemas/manifest.ts';
import { settingsOf } from '../../schemas/repository.ts';
import { openChainFiles } from './chain-files.ts';
import type { CopyNote, CopyNotes } from './copy-notes.ts';

/** How the file of a disk is copied. */
export interface CopyWay {
  source: BlobStore;
  target: BlobStore;
  /** Of the source; null where it is not encrypted. */
  keys: RepositoryKeys | null;
  note: CopyNote;
  pace: Pace;
  signal: AbortSignal;
  onProgress: (doneBytes: number) => void;
}

export interface CopiedFile {
  /** As the copy's manifest describes it. */
  disk: ManifestDisk;
  writtenBytes: number;
}

/**
 * Copies the file of a disk in the form that the target has: as it is, or encrypted, decrypted, or encrypted anew on the way. What an
 * earlier attempt finished is left as it is.
 */
export const createCopyFile = (copier: CopierPool, copies: CopyNotes) => {
  return async (way: CopyWay, disk: ManifestDisk): Promise<CopiedFile> => {
    const { encryption } = settingsOf(way.note.plan.to);
    const isAsStored = disk.encryption === undefined && encryption === null;
    return isAsStored ? await transfer(way, disk) : await recrypt(way, disk, encryption?.recipient);
  };

  /** Goes on where an earlier attempt stopped. */
  async function transfer(
    { source, target, note, pace, signal, onProgress }: CopyWay,
    disk: ManifestDisk,
  ): Promise<CopiedFile> {
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
      pace,
      signal,
      onProgress,
    });
    await writeSums(target, disk.file, segments);
    await upload.finish(disk.storedBytes);
    return { disk, writtenBytes };
  }

  /** Begins anew where an earlier attempt stopped: the key of what that wrote lies nowhere. @param recipient absent: plain */
  async function recrypt(
    { source, target, keys, note, ...how }: CopyWay,
    original: ManifestDisk,
    recipient: string | undefined,
  ): Promise<CopiedFile> {
    const { encryption: _, ...disk } = original;
    const keyThere = (key: string): string => (recipient === undefined ? plainKey(key) : encryptedKey(plainKey(key)));
    const file = keyThere(disk.file);
    const backingFile = disk.backingFile === null ? null : keyThere(disk.backingFile);
    const noted = note.files.find((each) => each.file === file);
    const former = noted && (await target.resumeUpload(file, noted.token));
    if (noted?.recrypted !== undefined && former === undefined) {
      const isFinished = (await target.statBlob(file))?.sizeBytes === noted.recrypted.storedBytes;
      if (isFinished) return { disk: { ...disk, file, backingFile, ...noted.recrypted }, writtenBytes: 0 };
    }
    await former?.abort();
    const [stored] = await openChainFiles(source, keys, [original]);
    if (stored === undefined) throw new Error(`${disk.file} was not opened`);
    const upload = await beginUpload(target, note, file);
    const { storedBytes, plainBytes, segments } = await copier.recryptFile({
      file: stored,
      sink: upload.sink,
      recipient,
      ...how,
    });
    const recrypted = {
      storedBytes,
      ...(recipient === undefined ? {} : { encryption: { format: 'age' as const, plainBytes } }),
      sums: await writeSums(target, file, segments),
    };
    note.files = note.files.map((each) => (each.file === file ? { ...each, recrypted } : each));
    await copies.write(note);
    await upload.finish(storedBytes);
    return { disk: { ...disk, file, backingFile, ...recrypted }, writtenBytes: storedBytes };
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
