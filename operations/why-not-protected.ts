import type { Offering, VmRecord } from '../schemas/catalog.ts';
import type { RepositoryRecord } from '../schemas/repository.ts';

/**
 * Why a VM cannot be given an offering: what the offering promises could not be kept. undefined when it can.
 * From what the catalog knows; whether a strategy fits the VM is for its host to say.
 */
export function whyNotProtected(
  offering: Offering,
  vm: VmRecord,
  repositories: readonly Pick<RepositoryRecord, 'name'>[],
): string | undefined {
  return whyNoRepository(offering, repositories) ?? whyNoDisk(offering, vm);
}

function whyNoRepository(
  { name, repository }: Offering,
  repositories: readonly Pick<RepositoryRecord, 'name'>[],
): string | undefined {
  const known = repositories.map((one) => one.name);
  if (repository !== null) {
    return known.includes(repository)
      ? undefined
      : `its repository ${repository} is not known; see: holdfast repo ls, and: holdfast offering update ${name} --repo NAME`;
  }
  if (known.length === 1) return undefined;
  return known.length === 0
    ? 'there is no repository yet; add one with: holdfast repo add DIRECTORY'
    : `it names no repository and there are ${known.join(', ')}; say which: holdfast offering update ${name} --repo NAME`;
}

/** A VM whose disks nobody has seen yet is given the benefit of the doubt. */
function whyNoDisk({ name, includeDisks, excludeDisks }: Offering, { disks }: VmRecord): string | undefined {
  if (disks.length === 0) return undefined;
  const left = disks.filter(
    ({ target }) => !excludeDisks.includes(target) && (includeDisks.length === 0 || includeDisks.includes(target)),
  );
  if (left.length > 0) return undefined;
  const has = disks.map(({ target }) => target).join(', ');
  return `no disk is left to back up: the VM has ${has}; see --include-disk and --exclude-disk of: holdfast offering update ${name}`;
}
