import { BlobStoreError } from './blob-store.ts';
import type { BlobStoreErrorCode } from './blob-store.ts';

/**
 * What an errno means for a repository. Source: Linux open(2), write(2), fsync(2), errno(3). `EACCES` and `EPERM` are
 * decided by what was tried: a repository that may be read but not written is read-only, one that may not be read is
 * unavailable.
 */
const CODES: Partial<Record<string, BlobStoreErrorCode>> = {
  ENOENT: 'not-found',
  EEXIST: 'exists',
  ENOSPC: 'full',
  EDQUOT: 'full',
  EFBIG: 'full', // the file system cannot hold a file of this size
  EROFS: 'read-only',
  ELOOP: 'invalid-key', // a symbolic link where O_NOFOLLOW expects a file
  ENOTDIR: 'invalid-key',
  EISDIR: 'invalid-key',
  ENAMETOOLONG: 'invalid-key',
  // All else (EIO, ESTALE, ENODEV, ENXIO, ETIMEDOUT, EHOSTDOWN, ENOTCONN, EMFILE…) may pass: unavailable.
};

export const errnoOf = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

/** The store's error for what the operating system said about the file of a blob; other errors pass as they are. */
export function storeErrorOf(
  error: unknown,
  { act, key, path }: { act: 'read' | 'write'; key: string; path: string },
): unknown {
  const errno = errnoOf(error);
  if (errno === undefined || error instanceof BlobStoreError) return error;
  const denied = errno === 'EACCES' || errno === 'EPERM';
  const code = denied ? (act === 'write' ? 'read-only' : 'unavailable') : (CODES[errno] ?? 'unavailable');
  const said = error instanceof Error ? error.message : String(error);
  return new BlobStoreError(code, `repository file ${path}: cannot ${act}: ${said}`, { key, cause: error });
}
