import type { Backup } from '../schemas/backup.ts';
import type {
  AdmissionRequest,
  BackupDiskRecord,
  CompletedBackup,
  HostRecord,
  NewBackup,
  Offering,
  VmRecord,
  VmSighting,
} from '../schemas/catalog.ts';
import type { RepositoryRecord, RepositorySettings } from '../schemas/repository.ts';
import type { BackupCopy, CopyState } from '../schemas/copy.ts';
import type { Delta } from '../schemas/delta.ts';
import type { OutcomeState, Schedule, ScheduleOutcome, ScheduleRun } from '../schemas/schedule.ts';
import type { Consolidation } from '../schemas/consolidation.ts';
import type { RewriteOperation } from '../schemas/rewrite-plan.ts';
import type { BackupState, BackupType, CompressionState, Strategy, VmState } from '../schemas/states.ts';
import type { ProvenBoot, ValidationResult } from '../schemas/validation.ts';
import type { CheckQueries } from './checks.ts';
import type { ClaimQueries } from './claims.ts';
import type { RescanQueries } from './rescans.ts';

/**
 * The catalog: what the installation knows of hosts, VMs, repositories, backups and running operations. Several
 * processes use it at once. It can be rebuilt from the repositories and the hypervisors.
 */
export interface Catalog extends AsyncDisposable {
  /** UUID of the installation whose catalog this is; repositories name it as their owner. A new catalog has a new one. */
  installation(): Promise<string>;
  hosts: HostQueries;
  vms: VmQueries;
  repositories: RepositoryQueries;
  offerings: OfferingQueries;
  backups: BackupQueries;
  checkpoints: CheckpointQueries;
  deltas: DeltaQueries;
  admissions: AdmissionQueries;
  consolidations: ConsolidationQueries;
  events: EventQueries;
  validations: ValidationQueries;
  rewrites: RewriteQueries;
  copies: CopyQueries;
  schedules: ScheduleQueries;
  proofs: ProofQueries;
  rescans: RescanQueries;
  claims: ClaimQueries;
  checks: CheckQueries;
}

export interface HostQueries {
  list(): Promise<HostRecord[]>;
  find(name: string): Promise<HostRecord | undefined>;
  /** Adds it, or changes what is given of it. */
  upsert(host: Pick<HostRecord, 'name'> & Partial<HostRecord>): Promise<HostRecord>;
  remove(name: string): Promise<void>;
}

export interface VmQueries {
  list(): Promise<VmRecord[]>;
  /** By UUID, or by name: several VMs of a fleet may share a name. */
  findByNameOrUuid(nameOrUuid: string): Promise<VmRecord[]>;
  find(uuid: string): Promise<VmRecord | undefined>;
  /**
   * Takes over one host's inventory. A VM seen running here moves here; one seen shut off here stays with the host
   * where it was last seen running, if that host still has it. Sightings of this host that are no longer there go.
   * VMs with backups stay known when no host has them.
   */
  recordInventory(host: string, sightings: VmSighting[], seenAt: string): Promise<void>;
  /** The same for one VM of one host; the host's other VMs stay as they are. */
  recordSighting(sighting: VmSighting, seenAt: string): Promise<void>;
  /**
   * What a host answered when it was asked for one VM, by name or UUID: the sightings are taken over, and sightings of
   * this host under that name or UUID that are not among them go.
   */
  recordAnswer(host: string, nameOrUuid: string, sightings: VmSighting[], seenAt: string): Promise<void>;
  /** Hosts whose last inventory had the VM. */
  sightings(uuid: string): Promise<VmSighting[]>;
  setState(uuid: string, state: VmState, error?: string | null): Promise<void>;
  setOffering(uuid: string, offering: string | null): Promise<void>;
}

export interface RepositoryQueries {
  list(): Promise<RepositoryRecord[]>;
  find(name: string): Promise<RepositoryRecord | undefined>;
  add(repository: Omit<RepositoryRecord, 'createdAt'>): Promise<RepositoryRecord>;
  changeSettings(name: string, settings: RepositorySettings): Promise<void>;
  remove(name: string): Promise<void>;
}

export interface OfferingQueries {
  list(): Promise<Offering[]>;
  find(name: string): Promise<Offering | undefined>;
  upsert(offering: Offering): Promise<void>;
  remove(name: string): Promise<void>;
}

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

export type AdmissionAnswer =
  | { granted: true }
  /** `waitingFor` is a sentence for a person; `blockers` are the workflows that hold what is missing. */
  | { granted: false; waitingFor: string; blockers: { workflowId: string; runId: string; operationId: string }[] };

/** An operation that was granted what it asked for by somebody else's release. */
export interface Granted {
  operationId: string;
  workflowId: string;
  runId: string;
}

export interface AdmissionQueries {
  /**
   * Asks, or asks again: repeating it keeps the place in the queue. Grants by priority, then fairly among tenants
   * (who holds least goes first), then by age; a waiting operation that cannot run does not hold up others that can,
   * except that nobody of lower rank overtakes it for a thing it waits for.
   */
  request(request: AdmissionRequest): Promise<AdmissionAnswer>;
  /**
   * What was granted goes on under another run, without a moment in which it is nobody's: the VM and the chain; the slots of
   * host and repository are given back. Gives who was granted something thereby; undefined when nothing is held. Repeatable.
   */
  handOver(
    operationId: string,
    to: { operation: string; workflowId: string; runId: string; vmUuid: string },
  ): Promise<Granted[] | undefined>;
  /** Gives everything back and grants to whom it helps. Again: nothing. */
  release(operationId: string): Promise<Granted[]>;
  /** Backups that are being restored now: each as long as one restore of it is admitted. */
  restoring(): Promise<Set<string>>;
  list(): Promise<
    (AdmissionRequest & { state: 'waiting' | 'granted'; requestedAt: string; waitingFor: string | null })[]
  >;
}

export interface ConsolidationQueries {
  /** Oldest first. */
  list(): Promise<Consolidation[]>;
  find(id: string): Promise<Consolidation | undefined>;
  /** By UUID or name of the VM that runs on the backup; of namesakes all. */
  findByVm(nameOrUuid: string): Promise<Consolidation[]>;
  /** Again with the same id: no change. A VM has one at most. */
  create(consolidation: Consolidation): Promise<void>;
  update(
    id: string,
    changes: Partial<Pick<Consolidation, 'state' | 'rateBytesPerSecond' | 'damage' | 'verifiedAt'>> & {
      run?: { workflowId: string; runId: string };
    },
  ): Promise<void>;
  remove(id: string): Promise<void>;
}

/** Something that happened, told to a person: what, to which VM, and what follows. */
export interface CatalogEvent {
  /** ISO 8601. */
  at: string;
  kind: string;
  vmUuid: string | null;
  backupId: string | null;
  message: string;
  /** The same for a machine, if there is more to say than the kind. */
  detail: unknown;
}

export interface EventQueries {
  record(
    event: Pick<CatalogEvent, 'at' | 'kind' | 'message'> & {
      vmUuid?: string | null;
      backupId?: string | null;
      detail?: unknown;
    },
  ): Promise<void>;
  /** Newest first, at most 100 unless told. */
  list(filter?: { vmUuid?: string; since?: string; limit?: number }): Promise<CatalogEvent[]>;
}

/** The run that validates a backup. */
export interface ValidatingRun {
  workflowId: string;
  runId: string;
}

export interface ValidationQueries {
  /** Marks the backup as `Validating` by this run; again: no change. Gives the run that validates it already, or null. */
  begin(id: string, run: ValidatingRun): Promise<ValidatingRun | null>;
  /** Gives a backup that this run was validating the state it had before; others are left alone. */
  restore(id: string, run: ValidatingRun): Promise<void>;
  /** Notes what a validation found. Again: no change. */
  complete(id: string, result: ValidationResult): Promise<void>;
  /** Backups that are marked as being validated. */
  running(): Promise<(ValidatingRun & { backupId: string; vmName: string })[]>;
  /** What the last validation found; null when there was none. */
  resultOf(id: string): Promise<ValidationResult | null>;
  /** When the VM last proved to boot, from any of its backups; null if never. */
  lastBoot(vmUuid: string): Promise<ProvenBoot | null>;
  /** Says why backups cannot be relied on; null takes it back. */
  setDamage(ids: string[], damage: string | null): Promise<void>;
}

/** The operation that writes the files of a backup anew. */
export interface RewritingRun {
  id: string;
  operation: RewriteOperation;
  workflowId: string;
  runId: string;
}

export interface RewriteQueries {
  /**
   * Notes that the files of a backup are written anew by this operation; a compression makes the backup `Compressing`. Again: no
   * change. Gives the operation that does so already, or null.
   */
  begin(backupId: string, run: RewritingRun): Promise<RewritingRun | null>;
  /** A compressing backup becomes `FinalizingCompression`. False when the operation is not noted with it any more. */
  finalize(backupId: string, operationId: string): Promise<boolean>;
  /** The files are what the manifest says now, and nobody writes them anew any more. Again: no change. */
  complete(backupId: string, operationId: string, rewritten: RewrittenBackup): Promise<void>;
  /**
   * Nobody writes them anew any more, and they are what they were. With a failure, a compressing backup becomes
   * `CompressionError`, else `None`. Again, or of another operation: no change.
   */
  end(backupId: string, operationId: string, failure: string | null): Promise<void>;
  /** Backups whose files are noted as being written anew. */
  running(): Promise<(RewritingRun & { backupId: string; vmName: string; host: string })[]>;
}

/** What a manifest says after its files were written anew. */
export interface RewrittenBackup {
  type: BackupType;
  parentId: string | null;
  codec: 'zstd' | 'none';
  /** The state a compression ends in; null leaves it. */
  compression: CompressionState | null;
  disks: BackupDiskRecord[];
}

export interface ScheduleRecord {
  schedule: Schedule;
  createdAt: string;
  /** Up to then it is known of every run that should have been what became of it. */
  checkedUntil: string;
}

/** A backup's mirror in another repository, with what later steps need of it. */
export interface CopyRecord extends BackupCopy {
  backupId: string;
  vmUuid: string;
  /** As its own manifest says: a merge of the original leaves the copy what it was. */
  type: BackupType;
  parentId: string | null;
  disks: BackupDiskRecord[];
}

export interface CopyFilter {
  /** UUID. */
  vm?: string;
  repository?: string;
  backupIds?: string[];
  states?: CopyState[];
}

/** The run that copies a backup. */
export interface CopyingRun {
  operationId: string;
  workflowId: string;
  runId: string;
}

/** What a copy's manifest says. */
export type CompletedCopy = Pick<CopyRecord, 'state' | 'type' | 'parentId' | 'disks'> & { copiedAt: string };

export interface CopyQueries {
  /** By backup, newest first, then by the repository's name. */
  list(filter?: CopyFilter): Promise<CopyRecord[]>;
  find(backupId: string, repository: string): Promise<CopyRecord | undefined>;
  /**
   * Notes that the operation copies the backup there, as `Copying`. Again: no change. Gives the operation that does so
   * already, `there` when a copy's files are in the repository, or null.
   */
  begin(copy: { backupId: string; repository: string } & CopyingRun): Promise<CopyingRun | 'there' | null>;
  /** The copy is there. Again, or of another operation: no change. */
  complete(backupId: string, repository: string, operationId: string, completed: CompletedCopy): Promise<void>;
  /** Nothing of the copy is there: `CopyError` with a failure, else forgotten. Again, or of another operation: no change. */
  end(
    backupId: string,
    repository: string,
    operationId: string,
    failure: { type: string; message: string } | null,
  ): Promise<void>;
  /** Notes a copy that was found in its repository; one that is being written is left alone. */
  note(found: { backupId: string; repository: string } & CompletedCopy): Promise<void>;
  setState(backupId: string, repository: string, state: CopyState, expected?: CopyState[]): Promise<boolean>;
  /** Says why copies cannot be relied on; null takes it back. */
  setDamage(repository: string, backupIds: string[], damage: string | null): Promise<void>;
  setVerified(repository: string, backupIds: string[], verifiedAt: string): Promise<void>;
  /** Copies that are noted as being written. */
  running(): Promise<({ backupId: string; repository: string; vmName: string } & CopyingRun)[]>;
}

/** What is noted of one VM's part in a run. */
export type OutcomeChange = Pick<ScheduleOutcome, 'state'> &
  Partial<Pick<ScheduleOutcome, 'reason' | 'backupId' | 'workflowId' | 'workflowRunId' | 'startedAt' | 'endedAt'>>;

export interface ScheduleQueries {
  list(): Promise<ScheduleRecord[]>;
  find(name: string): Promise<ScheduleRecord | undefined>;
  /** Adds it, or replaces its settings. */
  put(schedule: Schedule): Promise<ScheduleRecord>;
  remove(name: string): Promise<void>;
  setCheckedUntil(name: string, time: string): Promise<void>;
  /**
   * Notes a run with the VMs that are its work. Again with the same id: nothing. A run that was noted as missed and begins
   * after all is missed no more.
   */
  beginRun(run: ScheduleRun, vms: Pick<ScheduleOutcome, 'vm' | 'state' | 'reason' | 'backupId'>[]): Promise<void>;
  /** Notes a run that never began, unless one is noted for that time. Says whether it was news. */
  noteMissed(run: ScheduleRun): Promise<boolean>;
  findRun(id: string): Promise<ScheduleRun | undefined>;
  endRun(id: string, state: ScheduleRun['state'], reason: string | null, endedAt: string): Promise<void>;
  /** Newest first. */
  runs(filter?: {
    schedule?: string;
    since?: string;
    states?: ScheduleRun['state'][];
    limit?: number;
  }): Promise<ScheduleRun[]>;
  /** VMs of a run, in the order of their turns. */
  outcomes(
    runId: string,
    filter?: { states?: OutcomeState[]; after?: number; limit?: number },
  ): Promise<ScheduleOutcome[]>;
  /** What became of VMs in all runs since then, newest first. */
  outcomesSince(since: string, states: OutcomeState[]): Promise<ScheduleOutcome[]>;
  /** The last that is known of each VM of a schedule, by name. */
  lastOutcomes(schedule: string): Promise<ScheduleOutcome[]>;
  setOutcome(runId: string, position: number, change: OutcomeChange): Promise<void>;
  /** Gives all VMs whose turn has not come the same end. */
  settlePending(runId: string, state: OutcomeState, reason: string, endedAt: string): Promise<void>;
  countOutcomes(runId: string): Promise<Partial<Record<OutcomeState, number>>>;
  /** Forgets runs that were scheduled before. */
  prune(before: string): Promise<void>;
}

/** A backup with what is known for and against it. */
export interface ProvenBackup {
  id: string;
  vm: { uuid: string; name: string };
  /** ISO 8601. */
  instant: string;
  repository: string;
  storedBytes: number;
  /** It was not deleted. */
  isThere: boolean;
  /** It is there, and nothing is known against it. */
  isGood: boolean;
  /** When a throw-away VM was last tried from it, whatever came of it. */
  testedAt: string | null;
  /** When it last booted. */
  provedAt: string | null;
  /** When it was last validated, whatever came of it. */
  validatedAt: string | null;
  /** All that the last validation tried, passed. */
  isValid: boolean;
  bootMs: number | null;
}

/** A backup as a report tells of it. */
export interface TakenBackup {
  id: string;
  vm: { uuid: string; name: string };
  type: BackupType;
  /** Its instant; of one that did not come about, when it was begun. */
  at: string;
  /** It came about. */
  stored: boolean;
  storedBytes: number;
  durationMs: number;
  requestedBy: string | null;
  /** The run that took it. */
  runId: string;
  failure: { type: string; message: string } | null;
}

export interface ProofQueries {
  /** All backups that came about, newest first; of deleted ones those that were tested. */
  backups(): Promise<ProvenBackup[]>;
  /** Backups that were begun or came about since then, newest first, and those that failed. */
  takenSince(since: string): Promise<TakenBackup[]>;
}
