import type { Manifest, ManifestDisk, Replacement } from '../schemas/manifest.ts';
import type { BlobStore } from './blob-store.ts';

/**
 * A manifest without swaps under way: each disk as its file is now. Of the two files that a swap can leave under one
 * key the length tells which it is. Reads no more than lengths, and only where a swap was begun and not finished.
 */
export async function presentManifest(store: BlobStore, stored: Manifest): Promise<Manifest> {
  if (!stored.disks.some(({ replacement }) => replacement)) return stored;
  const disks: ManifestDisk[] = [];
  let compression = stored.compression;
  for (const disk of stored.disks) {
    const { replacement } = disk;
    const isReplaced =
      replacement !== undefined && (await store.statBlob(disk.file))?.sizeBytes === replacement.storedBytes;
    disks.push(isReplaced ? replacing(replacement) : unreplaced(disk));
    if (isReplaced) compression = replacement.compression;
  }
  return concluded({ ...stored, compression, disks });
}

/** The disk without what may have been about to take its place. */
export function unreplaced(disk: ManifestDisk): ManifestDisk {
  const { replacement: _, ...rest } = disk;
  return rest;
}

/** The disk as it is once its file was replaced. */
export function replacing(replacement: Replacement): ManifestDisk {
  const { temporary: _, compression: __, ...rest } = replacement;
  return rest;
}

/** A backup none of whose disks is layered on another one is a full, whatever it was. */
export const concluded = (manifest: Manifest): Manifest =>
  manifest.type === 'incremental' && manifest.disks.every(({ backingFile }) => backingFile === null)
    ? { ...manifest, type: 'full', parentId: null }
    : manifest;
