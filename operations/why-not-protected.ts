import type { Offering, RepositoryRecord, VmRecord } from '../schemas/catalog.ts';

/** What stands against a promise, from what the catalog knows of the VM; each strategy adds its own. */
export type Objection = (offering: Offering, vm: VmRecord) => string | undefined;

/** Objections of the strategies: a VM that a strategy cannot capture is refused its offering. */
const STRATEGIES: Record<Offering['strategy'], Objection> = {
  checkpoint: () => undefined, // what has no bitmaps is copied in full each time: dearer, yet kept
  snapshot: () => undefined,
};

/**
 * Why a VM cannot be given an offering: what the offering promises could not be kept. undefined when it can.
 * Pure: what a running hypervisor would add is found by the backup.
 */
export function whyNotProtected(
  offering: Offering,
  vm: VmRecord,
  repositories: readonly Pick<RepositoryRecord, 'name'>[],
): string | undefined {
  return (
    whyNoRepository(offering, repositories) ?? whyNoDisk(offering, vm) ?? STRATEGIES[offering.strategy](offering, vm)
  );
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
