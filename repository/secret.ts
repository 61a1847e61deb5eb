import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import type { SecretReference } from '../schemas/repository.ts';
import { errnoOf } from './file-errors.ts';

/** More than any key or list of keys. */
const MAX_SECRET_BYTES = 65_536;
const OTHERS = 0o077;

/** A secret is not where it should be, or not only its owner can read it. The message has its place and the remedy, never itself. */
export class SecretError extends Error {
  override readonly name = 'SecretError';
}

/** `/etc/holdfast/main.key` or `$HOLDFAST_KEY`, for messages. */
export const secretPlace = (reference: SecretReference): string =>
  reference.kind === 'file' ? reference.path : `the environment variable ${reference.name}`;

/**
 * Reads a secret on this machine.
 * @throws SecretError when it is not there, or others may read the file
 */
export async function readSecret(reference: SecretReference): Promise<string> {
  if (reference.kind === 'env') {
    const value = process.env[reference.name];
    if (value !== undefined && value !== '') return value;
    throw new SecretError(`${secretPlace(reference)} is not set in this process`);
  }
  const { path } = reference;
  try {
    await using file = await open(path, constants.O_RDONLY);
    const { mode, size } = await file.stat();
    if ((mode & OTHERS) !== 0) {
      throw new SecretError(`${path} can be read or written by others than its owner; chmod 600 ${path}`);
    }
    if (size > MAX_SECRET_BYTES) throw new SecretError(`${path} is too long for a key: ${size} bytes`);
    return await file.readFile('utf8');
  } catch (error) {
    const errno = errnoOf(error);
    if (error instanceof SecretError || errno === undefined) throw error;
    throw new SecretError(`${path} cannot be read: ${errno}`, { cause: error });
  }
}
