import { constants } from 'node:fs';
import { open, statfs, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { BlobStoreError } from '../repository/blob-store.ts';
import type { BlobSink } from '../repository/blob-store.ts';
import { errnoOf } from '../repository/file-errors.ts';
import { openSink } from '../repository/sink.ts';
import { CopierError } from './contract.ts';

const NO_SPACE = new Set(['ENOSPC', 'EDQUOT']);

/** An error of the destination must not look like one of the repository. */
function destinationError(path: string, error: unknown): unknown {
  const isFull = error instanceof BlobStoreError ? error.code === 'full' : NO_SPACE.has(errnoOf(error) ?? '');
  if (isFull) {
    return new CopierError('destination-full', `${path}: no space left for the restored disk`, {
      file: path,
      cause: error,
    });
  }
  if (!(error instanceof BlobStoreError)) return error;
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
  const file = await open(path, O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW, 0o600).catch((error: unknown) => {
    if (errnoOf(error) !== 'EEXIST') throw destinationError(path, error);
    throw new CopierError('destination-exists', `${path}: exists already`, { file: path, cause: error });
  });
  try {
    await file.truncate(sizeBytes);
  } catch (error) {
    await removeDestination(path);
    throw destinationError(path, error);
  } finally {
    await file.close();
  }
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

/** Makes the file and its name survive a power cut. @throws CopierError `destination-full`: a cache may find out late */
export async function syncDestination(path: string): Promise<void> {
  try {
    await using file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW);
    await file.sync();
    await using folder = await open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
    await folder.sync();
  } catch (error) {
    throw destinationError(path, error);
  }
}

/** For a restore that failed: what cannot be removed stays, so that the failure itself is what is reported. */
export const removeDestination = (path: string): Promise<void> => unlink(path).catch(() => undefined);
