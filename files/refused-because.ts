import { HoldfastError } from '../schemas/failures.ts';
import { failureTypeOf } from '../workers/failure-interceptor.ts';

/**
 * libguestfs knows of an I/O error alone where bytes of a disk were refused to it: this says why.
 * @param problems what its disks were refused, in that order
 */
export function refusedBecause(error: unknown, problems: readonly Error[]): unknown {
  const [first, ...others] = problems;
  if (first === undefined || !(error instanceof HoldfastError) || error.type !== 'FilesNotReadable') return error;
  const more = others.length === 0 ? '' : ` (and ${others.length} more)`;
  return new HoldfastError(failureTypeOf(first) ?? error.type, `${first.message}${more}; ${error.message}`, {
    cause: error,
  });
}
