import type { BackupRecord } from '../../catalog/contract.ts';
import type { Backup } from '../../schemas/backup.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import { settingsOf, type RepositoryRecord } from '../../schemas/repository.ts';
import type { BackupState } from '../../schemas/states.ts';

const DELETABLE: BackupState[] = ['BackedUp', 'Failed', 'Error', 'Removed'];
/** Has files that count. A `Removed` backup is kept for its descendants alone. */
const HOLDS_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed', 'Error'];
const LIVES: BackupState[] = ['BackedUp', 'Restoring', 'BackingUp'];
const DAY_MS = 86_400_000;
/** Can be built on. */
const WHOLE: BackupState[] = ['BackedUp', 'Restoring'];

/**
 * Decides what deleting a backup means for its chain. With living descendants it is hidden, its files kept; else it goes,
 * and with it every hidden ancestor that nothing needs any more, leaf to root.
 * @param backups all backups of the VM in that repository, in any order
 * @param openChain the VM's open chain there, if any: it ends when its newest goes
 * @param locked for how long the repository keeps what it was given, and what that is built on
 * @throws HoldfastError BackupNotDeletable, BackupLocked
 */
export function planDelete(
  backups: readonly BackupRecord[],
  backupId: string,
  { force, openChain, locked }: { force: boolean; openChain: string | null; locked?: Locks | undefined },
): DeletePlan {
  const family = familyOf(backups);
  const deleted = family.byId.get(backupId);
  if (deleted === undefined) throw new HoldfastError('BackupNotFound', `backup ${backupId} is not known`);
  requireDeletable(deleted);

  const descendants = descendantsOf(deleted, family);
  const living = descendants.filter(({ backup }) => LIVES.includes(backup.state));
  const doomed: BackupRecord[] = [];
  if (force) {
    const root = rootOf(deleted, family);
    doomed.push(...descendantsOf(root, family), root);
  } else if (living.length === 0) {
    doomed.push(...descendants, deleted);
    const gone = new Set(doomed);
    for (
      let parent = parentOf(deleted, family);
      parent?.backup.state === 'Removed';
      parent = parentOf(parent, family)
    ) {
      if (family.childrenOf(parent.backup.id).some((child) => !gone.has(child))) break;
      doomed.push(parent);
      gone.add(parent);
    }
  }
  for (const record of doomed) requireDeletable(record);
  if (locked !== undefined) requireUnlocked(doomed, family, locked);
  const expunge = doomed.map((record) => ({
    id: record.backup.id,
    state: record.backup.state,
    files: record.disks.flatMap((disk) => [disk.file, disk.sums.file]),
    storedBytes: record.backup.storedBytes,
  }));
  const { vm, chainId } = deleted.backup;
  return {
    backupId,
    vm,
    chainId,
    hide: doomed.length === 0,
    expunge,
    neededBy: doomed.length === 0 ? living.map(({ backup }) => backup.id) : [],
    freedBytes: expunge.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
    endsChain: chainId !== null && chainId === openChain && takesNewest(backups, chainId, new Set(doomed)),
  };
}

/** How long a repository keeps a backup: so many days from its own instant, and from those of all that are built on it. */
export interface Locks {
  days: number;
  now: Date;
}

/** undefined: the repository locks nothing. */
export function locksOf(repository: Pick<RepositoryRecord, 'settings'> | undefined, now: Date): Locks | undefined {
  const immutability = repository && settingsOf(repository).immutability;
  return immutability ? { days: immutability.days, now } : undefined;
}

/** When the last of the locks ends that a backup and those built on it have put on its files; ms since 1970. */
function lockedUntilMs(record: BackupRecord, family: Family, days: number): number {
  const instants = [record, ...descendantsOf(record, family)].flatMap(({ backup }) => backup.instant ?? []);
  return Math.max(-Infinity, ...instants.map((instant) => Date.parse(instant))) + days * DAY_MS;
}

function requireUnlocked(doomed: readonly BackupRecord[], family: Family, { days, now }: Locks): void {
  for (const record of doomed) {
    const { id, vm, repository } = record.backup;
    const untilMs = lockedUntilMs(record, family, days);
    if (untilMs <= now.getTime()) continue;
    throw new HoldfastError(
      'BackupLocked',
      `backup ${id} of VM ${vm.name} is locked in repository ${repository} until ${new Date(untilMs).toISOString()}`,
    );
  }
}

/** Hidden backups that a living one is built on. */
export function neededHidden(backups: readonly BackupRecord[]): Set<string> {
  const family = familyOf(backups);
  const needed = new Set<string>();
  for (const record of backups) {
    if (!LIVES.includes(record.backup.state)) continue;
    for (let parent = parentOf(record, family); parent !== undefined; parent = parentOf(parent, family)) {
      if (parent.backup.state !== 'Removed') continue;
      if (needed.has(parent.backup.id)) break;
      needed.add(parent.backup.id);
    }
  }
  return needed;
}

/** What a backup is busy with, so that it cannot be deleted now; undefined when with nothing. */
export function busyWith({
  state,
  compression,
  validation,
}: Pick<Backup, 'state' | 'compression' | 'validation'>): string | undefined {
  if (state === 'Queued' || state === 'BackingUp') return 'being taken';
  if (state === 'Restoring') return 'being restored';
  if (compression === 'Compressing' || compression === 'FinalizingCompression') return 'being compressed';
  return validation === 'Validating' ? 'being validated' : undefined;
}

function requireDeletable({ backup, pinned }: BackupRecord): void {
  const refuse = (what: string): never => {
    throw new HoldfastError('BackupNotDeletable', `backup ${backup.id} of VM ${backup.vm.name} is ${what}`);
  };
  const busy = busyWith(backup);
  if (busy !== undefined) refuse(`${busy}; try again later`);
  if (!DELETABLE.includes(backup.state)) refuse(backup.state);
  if (pinned && backup.state === 'BackedUp') refuse(`pinned; unpin it first: holdfast backup unpin ${backup.id}`);
}

/** The newest of the chain is among those that go, or none is left that could be built on. */
function takesNewest(backups: readonly BackupRecord[], chainId: string, doomed: ReadonlySet<BackupRecord>): boolean {
  const came = backups.filter(({ backup }) => backup.chainId === chainId && backup.instant !== null);
  const newest = (some: BackupRecord[]): string =>
    some.reduce((latest, { backup }) => (latest > (backup.instant ?? '') ? latest : (backup.instant ?? '')), '');
  const staying = came.filter((record) => !doomed.has(record) && WHOLE.includes(record.backup.state));
  const going = came.filter((record) => doomed.has(record));
  return going.length > 0 && newest(going) > newest(staying);
}

interface Family {
  byId: ReadonlyMap<string, BackupRecord>;
  /** Children whose files count, or will. */
  childrenOf: (id: string) => readonly BackupRecord[];
}

function familyOf(backups: readonly BackupRecord[]): Family {
  const children = new Map<string, BackupRecord[]>();
  for (const record of backups) {
    const { parentId, state, instant } = record.backup;
    if (parentId === null || !(HOLDS_FILES.includes(state) || state === 'BackingUp')) continue;
    if (state === 'Error' && instant === null) continue; // it did not come about: only its undo is open
    const siblings = children.get(parentId);
    if (siblings === undefined) children.set(parentId, [record]);
    else siblings.push(record);
  }
  return {
    byId: new Map(backups.map((record) => [record.backup.id, record])),
    childrenOf: (id) => children.get(id) ?? [],
  };
}

/** Leaves first; without a limit of depth, because a chain may have none. */
function descendantsOf(record: BackupRecord, { childrenOf }: Family): BackupRecord[] {
  const found: BackupRecord[] = [];
  const open = [...childrenOf(record.backup.id)];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    found.push(next);
    open.push(...childrenOf(next.backup.id));
  }
  return found.toReversed();
}

const parentOf = ({ backup }: BackupRecord, { byId }: Family): BackupRecord | undefined =>
  backup.parentId === null ? undefined : byId.get(backup.parentId);

function rootOf(record: BackupRecord, family: Family): BackupRecord {
  let root = record;
  for (let parent = parentOf(root, family); parent !== undefined; parent = parentOf(root, family)) {
    if (parent.backup.state === 'Expunged') break;
    root = parent;
  }
  return root;
}
