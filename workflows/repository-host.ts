import type { RepositoryRecord } from '../schemas/repository.ts';
import { hostProbes } from './activity-proxies.ts';
import { failureTypeOf } from './failure-cause.ts';

/**
 * The first of the hosts that answers and has the repository.
 * @throws what a host that answered said of the repository; else that none answered
 */
export const hostWithRepository = (hosts: string[], repository: RepositoryRecord): Promise<string> =>
  hostWithRepositories(hosts, [repository]);

/** The same, of several repositories that one host must have. */
export async function hostWithRepositories(hosts: string[], repositories: RepositoryRecord[]): Promise<string> {
  let refusal: unknown;
  for (const host of hosts) {
    try {
      for (const repository of repositories) await hostProbes(host).seesRepository({ repository });
      return host;
    } catch (error) {
      if (refusal === undefined || failureTypeOf(refusal) === 'HostUnreachable') refusal = error;
    }
  }
  throw refusal;
}
