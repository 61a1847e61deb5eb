import { errnoOf } from '../../repository/file-errors.ts';
import { HoldfastError } from '../../schemas/failures.ts';

const NO_SPACE = new Set(['ENOSPC', 'EDQUOT']);

/**
 * Gives an error of a full file system of the host its name, and any other as it is. Not to be waited out: it is a backup's own
 * scratch files that fill it where the guest overwrites much, and they go when it ends.
 */
export function unlessHostFull(error: unknown, host: string, vm: string): unknown {
  if (!NO_SPACE.has(errnoOf(error) ?? '')) return error;
  return new HoldfastError(
    'HostFull',
    `VM ${vm}: no space is left on host ${host} where its worker keeps notes and scratch files; the run ends, and its files there go`,
    { cause: error },
  );
}
