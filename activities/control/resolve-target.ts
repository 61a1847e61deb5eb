import type { Offering, VmRecord } from '../../schemas/catalog.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import { offering as offeringSchema } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupTarget } from '../../schemas/plan.ts';
import type { TakeBackupRequest } from '../../schemas/requests.ts';
import type { ControlDependencies } from './dependencies.ts';

/** What holds for a VM that no offering protects. */
const UNPROTECTED: Offering = offeringSchema.parse({ name: 'none' });

/** What happens after each backup by that offering. What it keeps holds for the VMs it protects, not for a single backup. */
const followUpsOf = (
  offering: Offering,
  { isVms, copyTo }: { isVms: boolean; copyTo: string | undefined },
): NonNullable<BackupTarget['followUps']> => [
  ...(offering.compression === 'deferred' ? (['compressBackup'] as const) : []),
  ...(offering.validation.length > 0 ? (['validateBackup'] as const) : []),
  ...(copyTo === undefined ? [] : (['copyBackup'] as const)),
  ...((offering.retention ?? offering.copyRetention) !== null && isVms ? (['applyRetention'] as const) : []),
];

export const createResolveTarget = ({ catalog, heartbeatSeconds }: ControlDependencies) => {
  async function offeringNamed(name: string): Promise<Offering> {
    const found = await catalog.offerings.find(name);
    if (found !== undefined) return found;
    throw new HoldfastError('OfferingNotFound', `offering: ${name} is not known; see: holdfast offering ls`);
  }

  async function repositoryFor(asked: string | undefined, offering: Offering): Promise<RepositoryRecord> {
    const name = asked ?? offering.repository;
    if (name != null) {
      const found = await catalog.repositories.find(name);
      if (found !== undefined) return found;
      throw new HoldfastError('RepositoryNotFound', `repository: ${name} is not known; see: holdfast repo ls`);
    }
    const all = await catalog.repositories.list();
    const [only] = all;
    if (only !== undefined && all.length === 1) return only;
    throw new HoldfastError(
      'RepositoryRequired',
      only === undefined
        ? 'repository: there is none yet; add one with: holdfast repo add DIRECTORY'
        : `repository: name one of ${all.map((repository) => repository.name).join(', ')} with --repo`,
    );
  }

  return {
    /** Refuses what no VM could change: an unknown repository or offering. Says how long the run may take. */
    async checkRequest(asked: TakeBackupRequest): Promise<{ timeLimitSeconds: number; heartbeatSeconds: number }> {
      if (asked.since !== undefined && (asked.full === true || asked.isolated === true)) {
        throw new HoldfastError(
          'InvalidRequest',
          'since: an increment was asked for, and a full one; leave one of them out',
        );
      }
      const offering = asked.offering === undefined ? UNPROTECTED : await offeringNamed(asked.offering);
      if (asked.offering !== undefined || asked.repository !== undefined)
        await repositoryFor(asked.repository, offering);
      else if ((await catalog.repositories.list()).length === 0) await repositoryFor(undefined, UNPROTECTED);
      return { timeLimitSeconds: asked.timeLimitSeconds ?? offering.timeLimitSeconds, heartbeatSeconds };
    },

    /** Fills in every default: the request first, then its offering or the VM's, then the installation's. */
    async resolveTarget(asked: TakeBackupRequest, vm: VmRecord): Promise<BackupTarget> {
      const name = asked.offering ?? vm.offering;
      const offering = name === null ? UNPROTECTED : await offeringNamed(name);
      const repository = await repositoryFor(asked.repository, offering);
      const copyTo = offering.copyTo === null || offering.copyTo === repository.name ? undefined : offering.copyTo;
      return {
        vm: { uuid: vm.uuid, name: vm.name },
        host: vm.host,
        repository,
        offering: name,
        quiesce: asked.quiesce ?? offering.quiesce,
        compression: asked.compression ?? (offering.compression === 'inline' ? 'zstd' : 'none'),
        includeDisks: asked.includeDisks ?? offering.includeDisks,
        excludeDisks: asked.excludeDisks ?? offering.excludeDisks,
        strategy: asked.strategy ?? offering.strategy,
        keepCheckpoints: offering.keepCheckpoints,
        chainSize: asked.chainSize ?? offering.chainSize,
        timeLimitSeconds: asked.timeLimitSeconds ?? offering.timeLimitSeconds,
        tenant: offering.tenant,
        priority: offering.priority,
        followUps: followUpsOf(offering, { isVms: name === vm.offering, copyTo }),
        ...(copyTo === undefined ? {} : { copyTo }),
      };
    },
  };
};
