import type { BackupToLock } from '../../schemas/plan.ts';
import { settingsOf, type RepositoryRecord } from '../../schemas/repository.ts';
import type { BackupState } from '../../schemas/states.ts';
import type { ControlDependencies } from './dependencies.ts';

const DAY_MS = 86_400_000;
/** Hidden ones are kept by what is built on them. */
const LIVING: BackupState[] = ['BackedUp', 'Restoring'];

export const createLocksToHold = ({ catalog }: ControlDependencies) => ({
  /** Backups of these VMs whose lock, as the repository promises it, is not over yet. */
  async locksToHold(repository: RepositoryRecord, vmUuids: string[]): Promise<BackupToLock[]> {
    const { immutability } = settingsOf(repository);
    if (immutability === null) return [];
    const since = Date.now() - immutability.days * DAY_MS;
    const records = await catalog.backups.records({ vms: vmUuids, repository: repository.name, states: LIVING });
    return records.flatMap(({ backup: { id, vm, instant } }) =>
      instant !== null && Date.parse(instant) > since ? [{ vmUuid: vm.uuid, id, instant }] : [],
    );
  },
});
