import type { Catalog } from '../../catalog/contract.ts';

/** More than a few that do not answer is not a host's trouble. */
const AT_MOST = 5;

/** Hosts to ask for work on a repository's files, the likeliest to answer first: any with the repository will do. */
export async function repositoryHosts(catalog: Catalog, likely: string[]): Promise<string[]> {
  const known = await catalog.hosts.list();
  const bySight = known.toSorted((a, b) => ((a.lastSeenAt ?? '') < (b.lastSeenAt ?? '') ? 1 : -1));
  const names = new Set([
    ...likely.filter((name) => known.some((host) => host.name === name)),
    ...bySight.map(({ name }) => name),
  ]);
  return names.size === 0 ? likely.slice(0, 1) : [...names].slice(0, AT_MOST);
}
