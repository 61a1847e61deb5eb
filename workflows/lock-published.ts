import { patched } from '@temporalio/workflow';
import type { AbortedBackup } from '../activities/host/end-backup.ts';
import { settingsOf } from '../schemas/repository.ts';
import { hostActivities } from './activity-proxies.ts';
import { causeOf } from './failure-cause.ts';

/**
 * Sets the locks of a backup whose run did not come further than its manifest. Gives what is in the way: then the daily search
 * for what nothing owns tries again.
 */
export async function lockPublished({
  plan,
  completed,
}: NonNullable<AbortedBackup['published']>): Promise<string | null> {
  const { repository, host, vm } = plan.target;
  if (settingsOf(repository).immutability === null || !patched('locks-made-up-for')) return null;
  try {
    const backup = { vmUuid: vm.uuid, id: completed.id, instant: completed.instant };
    const { problems } = await hostActivities(host).lockStored(repository, [backup], { dryRun: false });
    return problems[0] ?? null;
  } catch (error) {
    return `backup ${completed.id} is not locked yet: ${causeOf(error)}`;
  }
}
