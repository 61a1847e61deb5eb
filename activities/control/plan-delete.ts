import type { BackupRecord } from '../../catalog/contract.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import type { BackupState } from '../../schemas/states.ts';

const DELETABLE: BackupState[] = ['BackedUp', 'Failed', 'Error', 'Removed'];
/** Has files that count. A `Removed` backup is kept for its descendants alone. */
const HOLDS_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed', 'Error'];
const LIVES: BackupState[] = ['BackedUp', 'Restoring', 'BackingUp'];

/**
 * Decides what deleting a backup means for its chain. With living descendants it is hidden, its files kept; else it goes,
 * and with it every hidden ancestor that nothing needs any more, leaf to root.
 * @param chain all backups of the VM, in any order
 * @throws HoldfastError BackupNotDeletable
 */
export function planDelete(chain: BackupRecord[], backupId: string, { force }: { force: boolean }): DeletePlan {
  const byId = new Map(chain.map((record) => [record.backup.id, record]));
  const deleted = byId.get(backupId);
  if (deleted === undefined) throw new HoldfastError('BackupNotFound', `backup ${backupId} is not known`);
  const { vm, chainId, state } = deleted.backup;
  requireDeletable(deleted);
  const childrenOf = (id: string): BackupRecord[] =>
    chain.filter(
      ({ backup }) => backup.parentId === id && (HOLDS_FILES.includes(backup.state) || backup.state === 'BackingUp'),
    );
  const descendants = (id: string): BackupRecord[] =>
    childrenOf(id).flatMap((child) => [...descendants(child.backup.id), child]);

  const living = descendants(backupId).filter(({ backup }) => LIVES.includes(backup.state));
  const doomed: BackupRecord[] = [];
  if (force) {
    const line = rootOf(deleted, byId);
    const whole = [...descendants(line.backup.id), line]; // leaves first
    for (const record of whole) requireDeletable(record);
    doomed.push(...whole);
  } else if (living.length === 0) {
    doomed.push(...descendants(backupId), deleted);
    const gone = new Set(doomed.map(({ backup }) => backup.id));
    for (let parent = parentOf(deleted, byId); parent?.backup.state === 'Removed'; parent = parentOf(parent, byId)) {
      if (childrenOf(parent.backup.id).some(({ backup }) => !gone.has(backup.id))) break;
      doomed.push(parent);
      gone.add(parent.backup.id);
    }
  }
  const expunge = doomed.map((record) => ({
    id: record.backup.id,
    files: record.disks.flatMap((disk) => [disk.file, disk.sums.file]),
    storedBytes: record.backup.storedBytes,
  }));
  return {
    backupId,
    vm,
    chainId,
    hide: doomed.length === 0,
    expunge,
    neededBy: doomed.length === 0 ? living.map(({ backup }) => backup.id) : [],
    freedBytes: expunge.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
    endsChain: state === 'BackedUp' && doomed.length > 0 && chainId !== null,
  };
}

function requireDeletable({ backup }: BackupRecord): void {
  if (DELETABLE.includes(backup.state) && backup.compression !== 'Compressing' && backup.validation !== 'Validating')
    return;
  const doing =
    backup.compression === 'Compressing'
      ? 'being compressed'
      : backup.validation === 'Validating'
        ? 'being validated'
        : backup.state;
  throw new HoldfastError(
    'BackupNotDeletable',
    `backup ${backup.id} of VM ${backup.vm.name} is ${doing}; try again later`,
  );
}

const parentOf = ({ backup }: BackupRecord, byId: ReadonlyMap<string, BackupRecord>): BackupRecord | undefined =>
  backup.parentId === null ? undefined : byId.get(backup.parentId);

function rootOf(record: BackupRecord, byId: ReadonlyMap<string, BackupRecord>): BackupRecord {
  const parent = parentOf(record, byId);
  return parent === undefined || parent.backup.state === 'Expunged' ? record : rootOf(parent, byId);
}
