import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import { checkChainFiles } from '../../repository/check-chain.ts';
import { readManifest } from '../../repository/manifest.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest, ManifestDisk } from '../../schemas/manifest.ts';
import type { DiskToRestore } from '../../schemas/restore-plan.ts';

/** A backup's manifest and those of its ancestors, by backup id. */
export type ManifestChain = ReadonlyMap<string, Manifest>;

/**
 * Reads the manifests a backup is built on, newest first.
 * @throws HoldfastError BackupNotRestorable when one is missing or they do not make a chain
 */
export async function readManifestChain(store: BlobStore, vmUuid: string, backupId: string): Promise<ManifestChain> {
  const chain = new Map<string, Manifest>();
  let wanted: Set<string> | undefined; // files of the manifest that is read next
  for (let id: string | null = backupId; id !== null;) {
    if (chain.has(id)) throw new HoldfastError('BackupNotRestorable', `backup ${backupId}: its parents form a circle`);
    const missing: string = id;
    const manifest: Manifest = await readManifest(store, vmUuid, id).catch((error: unknown) => {
      if (!(error instanceof BlobStoreError) || error.code !== 'not-found') throw error;
      throw new HoldfastError(
        'BackupFileMissing',
        `backup ${backupId} needs backup ${missing}, whose manifest ${error.key ?? ''} is missing; the VM was not touched`,
        { cause: error },
      );
    });
    chain.set(id, manifest);
    const concerned: ManifestDisk[] = manifest.disks.filter(({ file }) => wanted?.has(file) ?? true);
    wanted = new Set(concerned.flatMap(({ backingFile }) => backingFile ?? []));
    id = wanted.size > 0 ? manifest.parentId : null;
  }
  return chain;
}

/** The files that make up one disk of a backup, base first. */
export function filesOfDisk(chain: ManifestChain, backupId: string, target: string): DiskToRestore['chain'] {
  const files: DiskToRestore['chain'] = [];
  let id: string | null = backupId;
  let disk = chain.get(backupId)?.disks.find((candidate) => candidate.target === target);
  while (disk !== undefined && id !== null) {
    files.unshift({ backupId: id, file: disk.file });
    const { backingFile }: ManifestDisk = disk;
    if (backingFile === null) return files;
    id = chain.get(id)?.parentId ?? null;
    disk = id === null ? undefined : chain.get(id)?.disks.find(({ file }) => file === backingFile);
  }
  throw new HoldfastError(
    'BackupNotRestorable',
    `backup ${backupId}: the chain of disk ${target} ends at ${files[0]?.file ?? 'nothing'}, whose parent no manifest names`,
  );
}

/** The manifest's entry of one stored file. */
export function diskOfFile(chain: ManifestChain, { backupId, file }: { backupId: string; file: string }): ManifestDisk {
  const disk = chain.get(backupId)?.disks.find((candidate) => candidate.file === file);
  if (disk === undefined) throw new HoldfastError('BackupNotRestorable', `no manifest names ${file}`);
  return disk;
}

/**
 * Compares the sizes of all files of a restore with their manifests, and looks for their sums, before a byte is written.
 * @throws HoldfastError BackupFileMissing, IntegrityMismatch, with the file's name
 */
export async function requireFiles(store: BlobStore, disks: ManifestDisk[]): Promise<void> {
  const [problem] = await checkChainFiles(
    store,
    disks.flatMap(({ file, storedBytes, sums }) => [
      { key: file, storedBytes },
      { key: sums.file, storedBytes: null },
    ]),
  );
  if (problem === undefined) return;
  if (problem.problem === 'missing') {
    throw new HoldfastError(
      'BackupFileMissing',
      `${problem.key} is missing from the repository; the VM was not touched`,
    );
  }
  throw new HoldfastError(
    'IntegrityMismatch',
    `${problem.key} has ${problem.foundBytes ?? 0} bytes, its manifest says ${problem.expectedBytes}; the VM was not touched`,
  );
}
