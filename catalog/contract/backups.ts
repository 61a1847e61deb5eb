import type { Backup } from '../../schemas/backup.ts';
import type { BackupDiskRecord, CompletedBackup, NewBackup } from '../../schemas/catalog.ts';
import type { Delta } from '../../schemas/delta.ts';
import type { BackupState, Strategy } from '../../schemas/states.ts';

/** A backup with all that later steps need: its disks as stored, who runs it. */
export interface BackupRecord {
  backup: Backup;
  disks: BackupDiskRecord[];
  workflowId: string;
  runId: string;
  createdAt: string;
  failure: { type: string; message: string } | null;
  strategy: Strategy;
  /** What the VM was protected by when it was taken. */
  offering: string | null;
  requestedBy: string | null;
  /** Neither retention nor a delete takes it. */
  pinned: boolean;
  /** Why it is pinned, if somebody said so. */
  pinNote?: string;
  /** Why it cannot be relied on any more; null as far as known. */
  damage: string | null;
  /** Why its last compression or merge failed. */
  rewriteFailure?: string;
}

export interface BackupFilter {
  vm?: string;
  /** Of these VMs, by UUID. */
  vms?: string[];
  repository?: string;
  /** Also the hidden states, `Removed` and `Expunged`. */
  all?: boolean;
  /** Also hidden ones that have a copy in another repository. */
  copied?: boolean;
  states?: BackupState[];
  limit?: number;
}

export interface BackupQueries {
  /** Newest first. Hidden states (`Removed`, `Expunged`) only with `all`. */
  list(filter?: BackupFilter): Promise<Backup[]>;
  /** The same backups, with all that later steps need of them. */
  records(filter?: BackupFilter): Promise<BackupRecord[]>;
  find(id: string): Promise<BackupRecord | undefined>;
  /** The id, or a unique beginning of at least 4 characters. */
  findByIdPrefix(prefix: string): Promise<BackupRecord[]>;
  /** In state `BackingUp`. Again with the same id: planned anew, as long as it is in that state. Opens the chain when `position` is 1. */
  create(backup: NewBackup): Promise<void>;
  /** `BackingUp` → `BackedUp`, with its disks; ends the chain when `endOfChain`. Again: no change. */
  complete(completed: CompletedBackup): Promise<void>;
  /** A backup that did not come about; `BackedUp` ones are left alone. */
  fail(
    id: string,
    state: Extract<BackupState, 'Failed' | 'Error'>,
    failure: { type: string; message: string },
  ): Promise<void>;
  setState(id: string, state: BackupState, expected?: BackupState[]): Promise<boolean>;
  /** Only of a backup that is whole; false when it is not. Unpinning drops the note. */
  setPinned(id: string, pinned: boolean, note?: string): Promise<boolean>;
  /** The newest `BackedUp` backup of the VM's open chain in this repository; undefined when no chain is open. */
  current(vmUuid: string, repository: string): Promise<BackupRecord | undefined>;
  /** The VM's newest chain in this repository, open or ended; `endedReason` is what `endChain` was told, or `chain-size-reached`. */
  lastChain(
    vmUuid: string,
    repository: string,
  ): Promise<{ id: string; open: boolean; endedReason: string | null } | undefined>;
  /** The number of each disk that was ever backed up of this VM, by target, newest wins. */
  diskNumbers(vmUuid: string): Promise<Map<string, number>>;
  /** From the full to `id`, each the parent of the next. */
  ancestry(id: string): Promise<BackupRecord[]>;
  children(id: string): Promise<BackupRecord[]>;
  /** Backups in state `BackingUp` of a VM, or of all. */
  unfinished(vmUuid?: string): Promise<BackupRecord[]>;
  /** Also retires the checkpoints of its backups. */
  endChain(chainId: string, reason: string): Promise<void>;
  /** VMs that were ever backed up there, sorted, from the one after `after` on. */
  vmsIn(repository: string, options: { after: string | null; limit: number }): Promise<string[]>;
  /** The VM has been backed up before, in whatever state the backup is now. */
  hasAny(vmUuid: string): Promise<boolean>;
}

export interface CheckpointRecord {
  vmUuid: string;
  backupId: string;
  /**
   * `pending` until the manifest is written; `current` = parent of the next; `kept` = parent of the next should newer
   * backups be lost; `retired` = to be deleted from the VM.
   */
  state: 'pending' | 'current' | 'kept' | 'retired';
  xml: string | null;
}

export interface CheckpointQueries {
  list(vmUuid: string): Promise<CheckpointRecord[]>;
  put(record: CheckpointRecord): Promise<void>;
  /**
   * Makes it `current`, and of the chain's others the youngest `kept`: `keep` (2 unless told) stay in all. The rest of that
   * repository's become `retired`: older ones, those of other chains, those of damaged backups.
   */
  promote(vmUuid: string, backupId: string, keep?: number): Promise<void>;
  /** The chain in that repository is over: its `current` and `kept` checkpoints become `retired`. */
  retire(vmUuid: string, repository: string): Promise<void>;
  /** Nothing will build on these backups: their `current` and `kept` checkpoints become `retired`. */
  retireOf(vmUuid: string, backupIds: string[]): Promise<void>;
  remove(vmUuid: string, backupId: string): Promise<void>;
}

/** Overlays of strategy `snapshot` on primary storage. A record comes before its overlay, and goes after it. */
export interface DeltaQueries {
  /** In the order of their paths. */
  list(vmUuid: string): Promise<Delta[]>;
  /** One record per backup and disk target: again, it is replaced. */
  put(vmUuid: string, deltas: Delta[]): Promise<void>;
  /** Forgets them, by backup and target. Again: nothing. */
  remove(vmUuid: string, deltas: Pick<Delta, 'backupId' | 'target'>[]): Promise<void>;
}
