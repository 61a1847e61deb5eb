import type { RepositoryRecord } from '../schemas/repository.ts';
import type { RestoreOfBackup } from '../schemas/restore-plan.ts';
import { hostProbes } from './activity-proxies.ts';
import { causeOf } from './failure-cause.ts';
import type { OperationView } from './operation-view.ts';

/** What can be restored from one of several repositories. */
type AnySource = RestoreOfBackup & { host: string; others?: RepositoryRecord[] | undefined };

/**
 * The same restore from the first repository that its host sees and that has the backup's chain whole, by its manifests and the
 * lengths of its files; those behind it are left as others. As it is when none has.
 */
export async function fromHealthySource<Plan extends AnySource>(plan: Plan, view: OperationView): Promise<Plan> {
  if (plan.others === undefined || plan.others.length === 0) return plan;
  const places = [plan.repository, ...plan.others];
  for (const [index, repository] of places.entries()) {
    try {
      await hostProbes(plan.host).checkRestoreSource({ ...plan, repository });
      return { ...plan, repository, others: places.slice(index + 1) };
    } catch (error) {
      view.note(`repository ${repository.name} is passed over: ${causeOf(error)}`);
    }
  }
  return plan;
}
