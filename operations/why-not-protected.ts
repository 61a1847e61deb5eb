import type { Offering, VmRecord } from '../schemas/catalog.ts';
import { settingsOf, type RepositoryRecord } from '../schemas/repository.ts';

/** What of a repository decides whether an offering can be kept. */
export type OfferedRepository = Pick<RepositoryRecord, 'name' | 'settings'>;

/**
 * Why a VM cannot be given an offering: what the offering promises could not be kept. undefined when it can.
 * From what the catalog knows; whether a strategy fits the VM is for its host to say.
 */
export function whyNotProtected(
  offering: Offering,
  vm: VmRecord,
  repositories: readonly OfferedRepository[],
): string | undefined {
  return whyNoRepository(offering, repositories) ?? whyNoIdentity(offering, repositories) ?? whyNoDisk(offering, vm);
}

function whyNoRepository(
  { name, repository }: Offering,
  repositories: readonly OfferedRepository[],
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

/**
 * Why what follows each backup of the offering would fail each time: it reads encrypted backups, and no host has an identity. That of
 * its repository, or of the only one there is; undefined where it is not known yet which that will be.
 */
export function whyNoIdentity(
  { repository, compression, validation }: Pick<Offering, 'repository' | 'compression' | 'validation'>,
  repositories: readonly OfferedRepository[],
): string | undefined {
  const [only] = repositories.length === 1 ? repositories : [];
  const found = repository === null ? only : repositories.find(({ name }) => name === repository);
  if (found === undefined) return undefined;
  const { encryption, identity } = settingsOf(found);
  if (encryption === null || identity !== null) return undefined;
  const readers = [
    ...(compression === 'deferred' ? ['compression after the backup'] : []),
    ...(validation.some((step) => step !== 'hash') ? ['a validation that boots'] : []), // hashes are of the encrypted bytes
  ];
  if (readers.length === 0) return undefined;
  return (
    `repository ${found.name} is encrypted and its hosts have no identity, which ${readers.join(' and ')} needs; ` +
    `give them one: holdfast repo set ${found.name} --identity-file PATH` +
    (compression === 'deferred' ? ', or compress while copying: --compression inline' : '')
  );
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
