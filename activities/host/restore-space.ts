import { lstat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DiskToRestore } from '../../schemas/restore-plan.ts';
import { isNotFound } from './json-notes.ts';
import { diskOfFile, type ManifestChain } from './restore-chain.ts';

/** Upper bound of what a restored disk takes: all that its chain ever stored, at most the disk's size. */
export function neededBytesOf(disk: Pick<DiskToRestore, 'chain' | 'virtualSizeBytes'>, chain: ManifestChain): number {
  const changedBytes = disk.chain.reduce((sum, file) => sum + diskOfFile(chain, file).changedBytes, 0);
  return Math.min(disk.virtualSizeBytes, changedBytes);
}

/**
 * Adds up what each file system will have to hold. Makes nothing, also no folder.
 * @throws HoldfastError DestinationFull
 */
export async function requireSpace(
  disks: readonly Pick<DiskToRestore, 'path' | 'chain' | 'virtualSizeBytes'>[],
  chain: ManifestChain,
): Promise<void> {
  const systems = new Map<number, { folder: string; neededBytes: number; freeBytes: number }>();
  for (const disk of disks) {
    const { folder, dev } = await existingFolder(dirname(disk.path));
    const { bavail, bsize } = await statfs(folder);
    const neededBytes = (systems.get(dev)?.neededBytes ?? 0) + neededBytesOf(disk, chain);
    systems.set(dev, { folder, neededBytes, freeBytes: bavail * bsize });
  }
  for (const { folder, neededBytes, freeBytes } of systems.values()) {
    if (neededBytes <= freeBytes) continue;
    throw new HoldfastError(
      'DestinationFull',
      `${folder} needs up to ${neededBytes} bytes for the restored disks, ${freeBytes} are free; the VM was not touched`,
    );
  }
}

/** The folder, or the nearest one above it that is there. */
async function existingFolder(folder: string): Promise<{ folder: string; dev: number }> {
  try {
    return { folder, dev: (await lstat(folder)).dev };
  } catch (error) {
    if (!isNotFound(error) || dirname(folder) === folder) throw error;
    return await existingFolder(dirname(folder));
  }
}
