/**
 * - `not-a-repository`: no `repository.json`: never initialised, or its file system is not mounted.
 * - `foreign`: another repository than the one expected lies there.
 * - `owned`: another installation writes there.
 * - `encryption-mismatch`: it is encrypted otherwise than expected, or not at all.
 * - `key-missing`, `key-wrong`: it is encrypted, and there is no identity, or one that does not open it.
 * - `unsupported-version`: written by a newer Holdfast.
 * - `invalid`: a manifest or list of sums is missing or does not hold what it must.
 */
export type RepositoryErrorCode =
  | 'not-a-repository'
  | 'foreign'
  | 'owned'
  | 'encryption-mismatch'
  | 'key-missing'
  | 'key-wrong'
  | 'unsupported-version'
  | 'invalid';

/** What is wrong with the content of a repository; `file` is the blob's key. Trouble with storage is a BlobStoreError. */
export class RepositoryError extends Error {
  override readonly name = 'RepositoryError';
  readonly code: RepositoryErrorCode;
  readonly file: string;
  constructor(code: RepositoryErrorCode, file: string, message: string, options?: ErrorOptions) {
    super(`${file}: ${message}`, options);
    this.code = code;
    this.file = file;
  }
}

/** It is encrypted, and what is at hand does not open it. */
export const isKeyError = (error: unknown): error is RepositoryError =>
  error instanceof RepositoryError && (error.code === 'key-missing' || error.code === 'key-wrong');
