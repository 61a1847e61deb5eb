import { constants } from 'node:fs';
import { open, statfs, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BlobStoreError } from '../repository/blob-store.ts';
import type { BlobSink } from '../repository/blob-store.ts';
import { openSink } from '../repository/sink.ts';
import { CopierError } from './contract.ts';

/** An error of the destination must not look like one of the repository. */
function destinationError(path: string, error: unknown): unknown {
  if (!(error instanceof BlobStoreError)) return error;
  if (error.code === 'full') {
    return new CopierError('destination-full', `${path}: no space left for the restored disk`, {
      file: path,
      cause: error,
    });
  }
  return new Error(`${path}: the restored disk cannot be written: ${error.message}`, { cause: error });
}

/** Opens the destination in a thread, as the copier opens what it stores to: past the page cache where that works. */
export async function openDestination(path: string): Promise<BlobSink> {
  const failed = (error: unknown): never => {
    throw destinationError(path, error);
  };
  const sink = await openSink({ kind: 'file', path, blobKey: path }).catch(failed);
  return {
    write: (offset, bytes) => sink.write(offset, bytes).catch(failed),
    [Symbol.asyncDispose]: () => sink[Symbol.asyncDispose](),
  };
}

/**
 * Creates the file, sparse and of its final length: writes into it then need no turn to extend it.
 * @throws CopierError `destination-exists`, `destination-full`
 */
export async function createDestination(path: string, sizeBytes: number): Promise<void> {
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;
  // Readable by root alone: libvirt gives it to QEMU when the VM starts.
  await using file = await open(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0o600).catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') {
      throw new CopierError('destination-exists', `${path}: exists already`, { file: path, cause: error });
    }
    throw error;
  });
  await file.truncate(sizeBytes);
}

/** @throws CopierError `destination-full` when the file system has less room than the disk needs */
export async function checkSpace(path: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(dirname(path));
  const freeBytes = bavail * bsize;
  if (freeBytes >= neededBytes) return;
  throw new CopierError(
    'destination-full',
    `${path}: the restored disk needs ${neededBytes} bytes, ${freeBytes} are free`,
    { file: path },
  );
}

/** Makes the file and its name survive a power cut. */
export async function syncDestination(path: string): Promise<void> {
  {
    await using file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW);
    await file.sync();
  }
  await using folder = await open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
  await folder.sync();
}

export const removeDestination = (path: string): Promise<void> =>
  unlink(path).catch((error: unknown) => {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
  });
