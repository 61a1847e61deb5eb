import type { Generated, Kysely } from 'kysely';
import type {
  BackupState,
  BackupType,
  CompressionState,
  Consistency,
  FullReason,
  Strategy,
  ValidationState,
  VmState,
} from '../schemas/states.ts';
import type { CopyState } from '../schemas/copy.ts';
import type { PowerState } from '../schemas/catalog.ts';
import type { RewriteOperation } from '../schemas/rewrite-plan.ts';
import type { OutcomeState, ScheduleRunState, ScheduleTask } from '../schemas/schedule.ts';
import type { ConsolidationState } from '../schemas/consolidation.ts';

/**
 * The tables, alike on SQLite and PostgreSQL: ids and ISO 8601 times are text that sorts by its bytes, whole numbers
 * stay below 2^53, booleans are 0 or 1, JSON is text. `migrations/` makes them.
 */
export interface Tables {
  hosts: HostTable;
  vms: VmTable;
  sightings: SightingTable;
  installation: InstallationTable;
  repositories: RepositoryTable;
  offerings: OfferingTable;
  chains: ChainTable;
  backups: BackupTable;
  backup_disks: BackupDiskTable;
  backup_copies: BackupCopyTable;
  backup_copy_disks: BackupCopyDiskTable;
  checkpoints: CheckpointTable;
  deltas: DeltaTable;
  admissions: AdmissionTable;
  consolidations: ConsolidationTable;
  events: EventTable;
  schedules: ScheduleTable;
  schedule_runs: ScheduleRunTable;
  schedule_outcomes: ScheduleOutcomeTable;
}

export type Engine = 'sqlite' | 'postgres';

/** An open catalog, as the files of the single subjects use it. */
export interface Database {
  db: Kysely<Tables>;
  engine: Engine;
  /** SQLite: the catalog's file; undefined in memory. */
  path?: string | undefined;
}

export interface HostTable {
  name: string;
  slots: number;
  libvirt_address: string | null;
  libvirt_version: string | null;
  qemu_version: string | null;
  last_seen_at: string | null;
}

export interface VmTable {
  uuid: string;
  name: string;
  host: string;
  power: PowerState;
  state: VmState;
  error: string | null;
  offering: string | null;
  last_seen_at: string | null;
  disks: string;
}

/** What the last inventory of one host said of one VM. */
export interface SightingTable {
  uuid: string;
  host: string;
  name: string;
  power: PowerState;
  disks: string;
  seen_at: string;
}

/** One row. */
export interface InstallationTable {
  only: number;
  id: string;
}

export interface RepositoryTable {
  name: string;
  id: string;
  location: string;
  slots: number;
  created_at: string;
  settings: string | null;
}

export interface OfferingTable {
  name: string;
  /** JSON of the whole offering: a new setting needs no migration. */
  settings: string;
}

export interface ChainTable {
  id: string;
  vm_uuid: string;
  repository: string;
  state: 'open' | 'ended';
  /** Backups that came about in it. */
  size: number;
  ended_reason: string | null;
  created_at: string;
  ended_at: string | null;
}

export interface BackupTable {
  id: string;
  vm_uuid: string;
  vm_name: string;
  type: BackupType;
  state: BackupState;
  parent_id: string | null;
  chain_id: string | null;
  position: number | null;
  isolated: number;
  end_of_chain: number;
  consistency: Consistency | null;
  instant: string | null;
  host: string;
  repository: string;
  /** What the copier was told; `compression` is the state that people see. */
  codec: 'zstd' | 'none';
  strategy: Strategy;
  /** What the VM was protected by when it was taken. */
  offering: string | null;
  requested_by: string | null;
  /** 1 = neither retention nor a delete takes it. */
  pinned: number;
  pin_note: string | null;
  /** JSON of what the last validation found. */
  validation_result: string | null;
  validated_at: string | null;
  /** While it is validated: the state it had, and the run that validates it. */
  validation_before: ValidationState | null;
  validation_workflow_id: string | null;
  validation_run_id: string | null;
  /** When it last proved to boot, and after how long its agent answered. */
  booted_at: string | null;
  boot_ms: number | null;
  /** Why it, or one it is built on, cannot be relied on any more. */
  damage: string | null;
  compression: CompressionState;
  /** While its files are written anew: the operation, its kind, and the run that does it. */
  rewrite_id: string | null;
  rewrite_operation: RewriteOperation | null;
  rewrite_workflow_id: string | null;
  rewrite_run_id: string | null;
  /** Why that failed the last time. */
  rewrite_failure: string | null;
  validation: ValidationState;
  stored_bytes: number;
  duration_ms: number;
  workflow_id: string;
  run_id: string;
  created_at: string;
  /** The instant, and until there is one the creation; with milliseconds, so that it sorts as text. */
  sort_time: string;
  failure_type: string | null;
  failure_message: string | null;
}

export interface BackupDiskTable {
  backup_id: string;
  target: string;
  number: number;
  serial: string | null;
  source_path: string | null;
  source_format: string;
  /** JSON of `sourceMark`. */
  source_mark: string | null;
  virtual_size_bytes: number;
  type: BackupType;
  full_reason: FullReason | null;
  file: string;
  backing_file: string | null;
  changed_bytes: number;
  read_bytes: number;
  stored_bytes: number;
  cluster_bytes: number;
  sums_file: string;
  sums_sha256: string;
  sums_segments: number;
  /** When its bytes were last compared with their hashes; null = not since they were written. */
  verified_at: string | null;
  /** What was wrong with them then. */
  damage: string | null;
}

/** A backup in another repository than its own. */
export interface BackupCopyTable {
  backup_id: string;
  repository: string;
  state: CopyState;
  type: BackupType;
  /** As the copy's manifest says; no reference: a copy may outlive what the catalog knows of its parent. */
  parent_id: string | null;
  stored_bytes: number;
  /** JSON list of `backupDiskRecord`: the files there. */
  disks: string;
  copied_at: string | null;
  verified_at: string | null;
  damage: string | null;
  failure_type: string | null;
  failure_message: string | null;
  /** While it is written: the operation, and the run that does it. */
  operation_id: string | null;
  workflow_id: string | null;
  run_id: string | null;
}

/** The stored files of a copy; all else of them is in `backup_copies.disks`. */
export interface BackupCopyDiskTable {
  backup_id: string;
  repository: string;
  target: string;
  file: string;
  stored_bytes: number;
  copied_at: string;
  /** When its bytes were last compared with their hashes. */
  verified_at: string | null;
  damage: string | null;
}

export interface CheckpointTable {
  vm_uuid: string;
  backup_id: string;
  state: 'pending' | 'current' | 'kept' | 'retired';
  xml: string | null;
}

/** An overlay on primary storage; see schemas/delta.ts. */
export interface DeltaTable {
  vm_uuid: string;
  backup_id: string;
  target: string;
  path: string;
  frozen_path: string;
  frozen_format: string;
  frozen_stamp: string | null;
}

export interface AdmissionTable {
  operation_id: string;
  operation: string;
  workflow_id: string;
  run_id: string;
  vm_uuid: string | null;
  chain_id: string | null;
  chain_mode: 'shared' | 'exclusive' | null;
  host: string | null;
  repository: string | null;
  tenant: string;
  priority: number;
  state: 'waiting' | 'granted';
  /** Place in the queue: greater than that of all who were there before. */
  place: number;
  /** JSON list of the things it has had to wait for; see grant.ts. */
  waited_for: string;
  requested_at: string;
  /** The backup that is being restored while this is granted. */
  restores_backup_id: string | null;
}

/** A VM whose disks depend on a backup; the row goes when they do not any more. */
export interface ConsolidationTable {
  /** That of its restore, and of its admission. */
  id: string;
  vm_uuid: string;
  vm_name: string;
  backup_id: string;
  host: string;
  repository: string;
  state: ConsolidationState;
  rate_bytes_per_second: number | null;
  /** JSON of the restore's plan and of what it prepared. */
  plan: string;
  prepared: string;
  damage: string | null;
  verified_at: string | null;
  workflow_id: string;
  run_id: string;
  since: string;
}

export interface EventTable {
  id: Generated<number>;
  at: string;
  kind: string;
  vm_uuid: string | null;
  backup_id: string | null;
  message: string;
  /** JSON, for machines. */
  detail: string | null;
}

export interface ScheduleTable {
  name: string;
  /** JSON of the whole schedule: a new setting needs no migration. */
  settings: string;
  created_at: string;
  /** Runs that should have been before this time are noted, those that were missed included. */
  checked_until: string;
}

export interface ScheduleRunTable {
  id: string;
  schedule: string;
  kind: ScheduleTask['kind'];
  scheduled_at: string;
  started_at: string | null;
  ended_at: string | null;
  workflow_id: string | null;
  state: ScheduleRunState;
  reason: string | null;
}

export interface ScheduleOutcomeTable {
  run_id: string;
  position: number;
  vm_uuid: string | null;
  vm_name: string;
  state: OutcomeState;
  reason: string | null;
  backup_id: string | null;
  workflow_id: string | null;
  workflow_run_id: string | null;
  started_at: string | null;
  ended_at: string | null;
}
