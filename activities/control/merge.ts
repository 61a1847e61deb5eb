import type { BackupRecord } from '../../catalog/contract.ts';
import { offering as offeringSchema } from '../../schemas/catalog.ts';
import { type RepositoryRecord } from '../../schemas/repository.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { MergedChain } from '../../schemas/merge-plan.ts';
import type { MergeBackupsRequest } from '../../schemas/requests.ts';
import { PRESENT } from './delete-backup.ts';
import type { ControlDependencies } from './dependencies.ts';
import { planMerge } from './plan-merge.ts';
import { repositoryHosts } from './repository-hosts.ts';
import type { PlannedRewrite } from './rewrite.ts';

const DEFAULT_TIME_LIMIT_SECONDS = offeringSchema.parse({ name: 'none' }).compressionTimeLimitSeconds;

export const createMerge = ({ catalog, heartbeatSeconds }: ControlDependencies) => {
  async function vmNamed(name: string): Promise<{ uuid: string; name: string; offering: string | null }> {
    const [vm, ...others] = await catalog.vms.findByNameOrUuid(name);
    if (vm === undefined) throw new HoldfastError('VmNotFound', `VM ${name} is not known; see: holdfast vm ls`);
    if (others.length === 0) return vm;
    const list = [vm, ...others].map(({ uuid, host }) => `${uuid} on ${host}`).join(', ');
    throw new HoldfastError('VmAmbiguous', `several VMs are called ${name}: ${list}; name one by its UUID`);
  }

  async function chainOf(
    vm: { uuid: string; name: string },
    asked: string | undefined,
  ): Promise<{ repository: RepositoryRecord; chainId: string }> {
    const found: { repository: RepositoryRecord; chainId: string }[] = [];
    for (const repository of await catalog.repositories.list()) {
      if (asked !== undefined && repository.name !== asked) continue;
      const chain = await catalog.backups.lastChain(vm.uuid, repository.name);
      if (chain !== undefined) found.push({ repository, chainId: chain.id });
    }
    const [only, ...others] = found;
    if (only === undefined) throw new HoldfastError('NothingToMerge', `VM ${vm.name} has no chain: nothing to merge`);
    if (others.length === 0) return only;
    const names = found.map(({ repository }) => repository.name).join(', ');
    throw new HoldfastError(
      'RepositoryRequired',
      `repository: VM ${vm.name} has chains in ${names}; name one with --repo`,
    );
  }

  const presentIn = (vm: { uuid: string }, repository: string): Promise<BackupRecord[]> =>
    catalog.backups.records({ vm: vm.uuid, repository, states: PRESENT });

  return {
    /**
     * What merging a VM's chain takes, and its first merge; `next` is null when nothing is left to do.
     * @throws VmNotFound, VmAmbiguous, RepositoryRequired, NothingToMerge when there is nothing to begin with
     */
    async planMerges(
      operationId: string,
      asked: MergeBackupsRequest,
      run: { workflowId: string; runId: string },
    ): Promise<{ chain: MergedChain; next: PlannedRewrite | null }> {
      const vm = await vmNamed(asked.vm);
      const { repository, chainId } = await chainOf(vm, asked.repository);
      const records = await presentIn(vm, repository.name);
      const { merges, blocked } = planMerge(records, chainId, asked.keep);
      const chain: MergedChain = {
        vm: { uuid: vm.uuid, name: vm.name },
        chainId,
        repository: repository.name,
        merges,
        blocked,
        dryRun: asked.dryRun ?? false,
      };
      const [first] = merges;
      if (first === undefined) return { chain, next: null };
      const [full, into] = [first.full, first.into].map(({ id }) => records.find(({ backup }) => backup.id === id));
      const name = vm.offering ?? into?.offering ?? null;
      const offering = name === null ? undefined : await catalog.offerings.find(name);
      const isCompressed = [full, into].some((record) => record?.backup.compression === 'Compressed');
      return {
        chain,
        next: {
          plan: {
            operationId,
            operation: 'mergeBackups',
            backupId: first.into.id,
            vm: chain.vm,
            repository,
            compression: isCompressed ? 'zstd' : 'none',
            timeLimitSeconds: offering?.compressionTimeLimitSeconds ?? DEFAULT_TIME_LIMIT_SECONDS,
          },
          admission: {
            operationId,
            operation: 'mergeBackups',
            ...run,
            vmUuid: null,
            chain: { id: chainId, mode: 'shared' },
            host: null,
            repository: null,
            tenant: offering?.tenant ?? 'default',
            priority: offering?.priority ?? 3,
          },
          hosts: await repositoryHosts(catalog, into === undefined ? [] : [into.backup.host]),
          heartbeatSeconds,
        },
      };
    },

    /** The merge still makes sense, now that nobody else works on the chain. @throws NothingToMerge */
    async requireMergeable(chain: MergedChain, fullId: string, intoId: string): Promise<void> {
      const records = await presentIn(chain.vm, chain.repository);
      const [first] = planMerge(records, chain.chainId, undefined).merges;
      if (first?.full.id === fullId && first.into.id === intoId) return;
      throw new HoldfastError(
        'NothingToMerge',
        `backups ${fullId} and ${intoId} of VM ${chain.vm.name} are not the oldest of their chain any more`,
      );
    },

    /** The former full of a chain, whose content its successor has now: what deleting it takes; null when it stays. */
    async planFormerFull(chain: MergedChain, fullId: string): Promise<DeletePlan | null> {
      const records = await presentIn(chain.vm, chain.repository);
      const full = records.find(({ backup }) => backup.id === fullId);
      if (full === undefined || records.some(({ backup }) => backup.parentId === fullId && backup.state !== 'Failed'))
        return null;
      const { state, storedBytes } = full.backup;
      const files = full.disks.flatMap((disk) => [disk.file, disk.sums.file]);
      return {
        backupId: fullId,
        vm: chain.vm,
        chainId: chain.chainId,
        hide: false,
        expunge: [{ id: fullId, state, files, storedBytes }],
        neededBy: [],
        freedBytes: storedBytes,
        endsChain: false,
      };
    },
  };
};
