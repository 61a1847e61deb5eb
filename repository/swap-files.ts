import type { Manifest, ManifestDisk, Replacement } from '../schemas/manifest.ts';
import type { BlobStore } from './blob-store.ts';
import { BlobStoreError } from './blob-store.ts';
import { rewriteKey, rewriterOf, sumsKey } from './layout.ts';
import { readStoredManifest, replaceManifest } from './manifest.ts';
import { concluded, replacing, unreplaced } from './present-manifest.ts';
import { RepositoryError } from './repository-error.ts';
import { readSums } from './sums.ts';

/** What was rewritten, and what it was rewritten from. */
export interface RewrittenDisk {
  /** Hash of the sums of the file that was read: another one may lie there by now. */
  formerSums: string;
  /** `sums.file` is the key of the new sums beside `temporary`. */
  replacement: Replacement;
}

/**
 * Puts rewritten files in the places of those they were made from. The manifest is what decides: first it names
 * both files of each disk, then the files move, then it names the new ones alone. Cut off at any instant, every reader
 * finds one of the two and what holds of it, and calling this again, or `finishSwap`, brings it to its end.
 * The caller keeps everybody else from the chain. Returns the manifest as it is then.
 * @throws RepositoryError `invalid` when a rewritten file is not there whole, or the backup has changed since it was read
 */
export async function swapFiles(
  store: BlobStore,
  backup: { vmUuid: string; backupId: string },
  rewritten: readonly RewrittenDisk[],
): Promise<Manifest> {
  const before = await finishOthers(store, backup, rewritten);
  const disks = await Promise.all(before.disks.map((disk) => announce(store, backup.backupId, disk, rewritten)));
  if (disks.some((disk, index) => disk !== before.disks[index])) await replaceManifest(store, { ...before, disks });
  const finished = await finishSwap(store, backup);
  await removeTemporaries(
    store,
    rewritten.map(({ replacement }) => replacement),
  ); // also those that an earlier attempt, cut off at its very end, left
  return finished;
}

/** Removes what a rewriting left beside. No manifest may name it any more. */
async function removeTemporaries(store: BlobStore, replacements: readonly Replacement[]): Promise<void> {
  for (const { temporary, sums } of replacements) {
    await store.deleteBlob(temporary);
    await store.deleteBlob(sums.file);
  }
}

/** The manifest, without a swap of somebody else who was cut off in it. */
async function finishOthers(
  store: BlobStore,
  { vmUuid, backupId }: { vmUuid: string; backupId: string },
  rewritten: readonly RewrittenDisk[],
): Promise<Manifest> {
  const stored = await readStoredManifest(store, vmUuid, backupId);
  const isOurs = (replacement: Replacement) =>
    rewritten.some((one) => one.replacement.temporary === replacement.temporary);
  const isForeign = stored.disks.some(({ replacement }) => replacement && !isOurs(replacement));
  return isForeign ? await finishSwap(store, { vmUuid, backupId }) : stored;
}

async function announce(
  store: BlobStore,
  backupId: string,
  disk: ManifestDisk,
  rewritten: readonly RewrittenDisk[],
): Promise<ManifestDisk> {
  const found = rewritten.find(({ replacement }) => replacement.file === disk.file);
  if (found === undefined || disk.replacement) return disk;
  const { formerSums } = found;
  const replacement = ofFile(disk.file, found.replacement);
  if (disk.sums.sha256 === replacement.sums.sha256) return disk; // an earlier attempt came to its end
  if (disk.sums.sha256 !== formerSums) {
    throw new RepositoryError(
      'invalid',
      disk.file,
      `is another file than the one that was read for backup ${backupId}`,
    );
  }
  if (replacement.storedBytes === disk.storedBytes) {
    throw new RepositoryError('invalid', replacement.temporary, 'has the length of the file it is to replace');
  }
  const foundBytes = (await store.statBlob(replacement.temporary))?.sizeBytes;
  if (foundBytes !== replacement.storedBytes) {
    const what = `has ${foundBytes ?? 'no'} bytes, not ${replacement.storedBytes}; ${disk.file} stays as it is`;
    throw new RepositoryError('invalid', replacement.temporary, what);
  }
  await readSums(store, replacement);
  return { ...disk, replacement };
}

/**
 * Brings a swap that was begun to its end, and does nothing where none was. A rewritten file that is gone leaves the former
 * one in its place. Repeatable. Returns the manifest as it is then.
 */
export async function finishSwap(
  store: BlobStore,
  { vmUuid, backupId }: { vmUuid: string; backupId: string },
): Promise<Manifest> {
  const stored = await readStoredManifest(store, vmUuid, backupId);
  const replacements = stored.disks.flatMap(({ file, replacement }) => (replacement ? ofFile(file, replacement) : []));
  if (replacements.length === 0) return stored;
  const disks: ManifestDisk[] = [];
  let { compression } = stored;
  for (const disk of stored.disks) {
    const { replacement } = disk;
    if (replacement === undefined || !(await isInPlace(store, disk.file, replacement))) {
      disks.push(unreplaced(disk));
      continue;
    }
    disks.push({ ...replacing(replacement), sums: { ...replacement.sums, file: await nameSums(store, replacement) } });
    compression = replacement.compression;
  }
  const finished = concluded({ ...stored, compression, disks });
  await replaceManifest(store, finished);
  await removeTemporaries(store, replacements);
  return finished;
}

/** A manifest's word alone must not move or remove anything but what a rewriting made. */
function ofFile(file: string, replacement: Replacement): Replacement {
  const { temporary, sums } = replacement;
  const operation = rewriterOf(temporary);
  if (
    operation !== undefined &&
    replacement.file === file &&
    temporary === rewriteKey(file, operation) &&
    sums.file === sumsKey(temporary)
  ) {
    return replacement;
  }
  throw new RepositoryError('invalid', file, `cannot be replaced by ${temporary} with the sums ${sums.file}`);
}

/** Moves the rewritten file in, unless it is there; false when there is none any more. */
async function isInPlace(store: BlobStore, file: string, { temporary, storedBytes }: Replacement): Promise<boolean> {
  if ((await store.statBlob(file))?.sizeBytes === storedBytes) return true;
  if ((await store.statBlob(temporary))?.sizeBytes !== storedBytes) return false;
  await store.moveBlob(temporary, file);
  return true;
}

/** Gives the sums of a file that is in its place their lasting name. What was there belonged to the former file. */
async function nameSums(store: BlobStore, { file, sums, storedBytes }: Replacement): Promise<string> {
  const lasting = sumsKey(file);
  const content = await store.getBlob(sums.file, { maxBytes: MAX_SUMS_BYTES }).catch((error: unknown) => {
    if (error instanceof BlobStoreError && error.code === 'not-found') return undefined;
    throw error;
  });
  if (content) await store.putBlob(lasting, content, { replace: true });
  await readSums(store, { file, storedBytes, sums: { ...sums, file: lasting } });
  return lasting;
}

/** As much as a list of sums can have. */
const MAX_SUMS_BYTES = 512 * 1024 * 1024;
