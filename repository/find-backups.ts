import type { Manifest } from '../schemas/manifest.ts';
import { backupDiskRecord } from '../schemas/catalog.ts';
import type { FileProblem, FoundBackup, FoundVm } from '../schemas/rescan.ts';
import { BlobStoreError, type BlobStore } from './blob-store.ts';
import { inParallel } from './in-parallel.ts';
import { isBackupFile, parseManifestKey, sumsKey, validationKeys, vmFolder } from './layout.ts';
import { filesNamedBy, readStoredManifest } from './manifest.ts';
import { presentManifest } from './present-manifest.ts';
import { isKeyError, RepositoryError } from './repository-error.ts';
import type { RepositoryKeys } from './repository-keys.ts';
import { hidesNames, unsealManifest } from './sealed-manifest.ts';

/** Manifests of one VM read at once: a server elsewhere takes some milliseconds for each. */
const READS_AT_ONCE = 8;

/**
 * Reads every manifest in the folder of a VM and looks whether the files it names are there in their length; no byte of
 * theirs is read. One listing tells of all files.
 * @param keys open manifests whose names are hidden; with `null`, or others, such backups are found without their names
 * @throws BlobStoreError when the repository cannot be read: that says nothing of its backups
 */
export async function findBackups(store: BlobStore, vmUuid: string, keys: RepositoryKeys | null): Promise<FoundVm> {
  const sizes = new Map<string, number>();
  const ids: string[] = [];
  for await (const { key, sizeBytes } of store.listBlobs(vmFolder(vmUuid))) {
    sizes.set(key, sizeBytes);
    const manifest = parseManifestKey(key);
    if (manifest !== undefined) ids.push(manifest.backupId);
  }
  const found: FoundVm = { uuid: vmUuid, backups: [], unreadable: [], sealed: [], surplus: [] };
  const named = new Set<string>();
  await inParallel(ids.toSorted(), READS_AT_ONCE, async (backupId) => {
    try {
      const stored = await readStoredManifest(store, vmUuid, backupId);
      for (const key of validationKeys(vmUuid, backupId)) named.add(key);
      for (const file of filesNamedBy(stored)) named.add(file);
      const { manifest, sealedBecause } = await opened(await presentManifest(store, stored), keys);
      if (sealedBecause !== null) found.sealed.push({ backupId, message: sealedBecause });
      const backup = foundBackupOf(manifest);
      found.backups.push({ ...backup, problems: problemsOf(backup, sizes) });
    } catch (error) {
      const message = unreadableBecause(error);
      if (message === undefined) throw error;
      if (message !== null) found.unreadable.push({ backupId, message });
    }
  });
  if (found.unreadable.length === 0) {
    for (const [key, sizeBytes] of sizes) {
      if (!named.has(key) && isBackupFile(key)) found.surplus.push({ key, sizeBytes, isUpload: false });
    }
    for await (const { key, sizeBytes } of store.listUploads(vmFolder(vmUuid))) {
      if (!named.has(key) && isBackupFile(key)) found.surplus.push({ key, sizeBytes, isUpload: true });
    }
  }
  found.backups.sort((a, b) => (a.instant < b.instant ? -1 : 1));
  return found;
}

/** The manifest with its names where they are hidden, or why not. Others are not opened: they tell all that a catalog needs. */
async function opened(
  stored: Manifest,
  keys: RepositoryKeys | null,
): Promise<{ manifest: Manifest; sealedBecause: string | null }> {
  if (!hidesNames(stored)) return { manifest: stored, sealedBecause: null };
  try {
    return { manifest: await unsealManifest(stored, keys), sealedBecause: null };
  } catch (error) {
    if (!isKeyError(error)) throw error;
    return { manifest: stored, sealedBecause: error.message };
  }
}

/** How many manifests lie in the folder of each VM, by VM. */
export async function countManifests(store: BlobStore): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  for await (const { key } of store.listBlobs('')) {
    const manifest = parseManifestKey(key);
    const vmUuid = manifest?.vmUuid ?? key.slice(0, key.indexOf('/'));
    if (manifest === undefined && !isBackupFile(key)) continue;
    counts.set(vmUuid, (counts.get(vmUuid) ?? 0) + (manifest === undefined ? 0 : 1));
  }
  return counts;
}

const foundBackupOf = (manifest: Manifest): Omit<FoundBackup, 'problems'> => ({
  id: manifest.id,
  vmName: manifest.vm.name,
  type: manifest.type,
  parentId: manifest.parentId,
  chainId: manifest.chainId,
  position: manifest.position,
  isolated: manifest.isolated,
  endOfChain: manifest.endOfChain,
  instant: manifest.instant,
  consistency: manifest.consistency,
  host: manifest.host,
  compression: manifest.compression,
  strategy: manifest.strategy ?? 'checkpoint',
  validation: manifest.validation,
  validationResult: manifest.validationResult ?? null,
  requestedBy: manifest.requestedBy,
  offering: manifest.run?.offering ?? null,
  durationMs: manifest.durationMs,
  hasCheckpoint: manifest.checkpointXml !== null,
  disks: manifest.disks.map((disk) => backupDiskRecord.parse(disk)),
  ...(manifest.copiedFrom === undefined ? {} : { copiedFrom: manifest.copiedFrom }),
});

function problemsOf({ disks }: Pick<FoundBackup, 'disks'>, sizes: ReadonlyMap<string, number>): FileProblem[] {
  return disks.flatMap(({ file, storedBytes, sums }): FileProblem[] => {
    const sizeBytes = sizes.get(file);
    if (sizeBytes === undefined) return [{ file, problem: 'missing', message: `${file} is missing` }];
    if (sizeBytes !== storedBytes) {
      const message = `${file} has ${sizeBytes} bytes, its manifest says ${storedBytes}`;
      return [{ file, problem: 'damaged', message }];
    }
    return sizes.has(sums.file) ? [] : [{ file, problem: 'missing', message: `${sumsKey(file)} is missing` }];
  });
}

/** What is wrong with a manifest; null when it is gone meanwhile; undefined when the error says nothing of it. */
function unreadableBecause(error: unknown): string | null | undefined {
  if (error instanceof RepositoryError) return error.message;
  if (!(error instanceof BlobStoreError)) return undefined;
  if (error.code === 'not-found') return null;
  return error.code === 'too-large' || error.code === 'invalid-key' ? error.message : undefined;
}
