import { InvalidArgumentError } from 'commander';
import { diskTarget } from '../schemas/names.ts';

/** Instead of an id, with `--from`: the youngest backup of a VM. */
export const LATEST = 'latest';

export function parseIdPrefix(value: string): string {
  if (/^[0-9a-fA-F-]{4,36}$/.test(value)) return value.toLowerCase();
  throw new InvalidArgumentError('give a backup id, or at least four characters of its beginning');
}

/** An id where `--from` may be given too. */
export const parseStoredId = (value: string): string => (value === LATEST ? value : parseIdPrefix(value));

export function parseTarget(value: string): string {
  if (diskTarget.safeParse(value).success) return value;
  throw new InvalidArgumentError('give a disk target, like vda');
}
