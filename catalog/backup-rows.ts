import type { Backup } from '../schemas/backup.ts';
import type { BackupDiskRecord } from '../schemas/catalog.ts';
import { sourceMark } from '../schemas/source-mark.ts';
import type { BackupRecord } from './contract.ts';
import type { BackupDiskTable, BackupTable } from './database.ts';

/** Of a backup that is new to the catalog: nobody has pinned, validated, booted or rewritten it here. */
export const UNTOUCHED = {
  pinned: 0,
  pin_note: null,
  validation_result: null,
  validated_at: null,
  validation_before: null,
  validation_workflow_id: null,
  validation_run_id: null,
  booted_at: null,
  boot_ms: null,
  rewrite_id: null,
  rewrite_operation: null,
  rewrite_workflow_id: null,
  rewrite_run_id: null,
  rewrite_failure: null,
} satisfies Partial<BackupTable>;

/** A backup as scripts see it. */
export const toBackup = (row: BackupTable, disks: BackupDiskRecord[]): Backup => ({
  id: row.id,
  vm: { uuid: row.vm_uuid, name: row.vm_name },
  type: row.type,
  state: row.state,
  parentId: row.parent_id,
  chainId: row.chain_id,
  position: row.position,
  isolated: row.isolated === 1,
  endOfChain: row.end_of_chain === 1,
  consistency: row.consistency,
  instant: row.instant,
  host: row.host,
  repository: row.repository,
  compression: row.compression,
  validation: row.validation,
  disks: disks.map((disk) => ({
    target: disk.target,
    type: disk.type,
    fullReason: disk.fullReason,
    file: disk.file,
    virtualSizeBytes: disk.virtualSizeBytes,
    changedBytes: disk.changedBytes,
    readBytes: disk.readBytes,
    storedBytes: disk.storedBytes,
  })),
  storedBytes: row.stored_bytes,
  durationMs: row.duration_ms,
});

/** A backup with what later steps need of it. */
export const toRecord = (row: BackupTable, disks: BackupDiskRecord[]): BackupRecord => ({
  backup: toBackup(row, disks),
  disks,
  workflowId: row.workflow_id,
  runId: row.run_id,
  createdAt: row.created_at,
  failure: row.failure_type === null ? null : { type: row.failure_type, message: row.failure_message ?? '' },
  strategy: row.strategy,
  offering: row.offering,
  requestedBy: row.requested_by,
  pinned: row.pinned === 1,
  ...(row.pin_note === null ? {} : { pinNote: row.pin_note }),
  damage: row.damage,
  ...(row.rewrite_failure === null ? {} : { rewriteFailure: row.rewrite_failure }),
});

export const toDiskRecord = (row: BackupDiskTable): BackupDiskRecord => ({
  target: row.target,
  number: row.number,
  serial: row.serial,
  sourcePath: row.source_path,
  sourceFormat: row.source_format,
  ...(row.source_mark === null ? {} : { sourceMark: sourceMark.parse(JSON.parse(row.source_mark)) }),
  virtualSizeBytes: row.virtual_size_bytes,
  type: row.type,
  fullReason: row.full_reason,
  file: row.file,
  backingFile: row.backing_file,
  changedBytes: row.changed_bytes,
  readBytes: row.read_bytes,
  storedBytes: row.stored_bytes,
  clusterBytes: row.cluster_bytes,
  sums: { file: row.sums_file, sha256: row.sums_sha256, segments: row.sums_segments },
});

export const toDiskRow = (backupId: string, disk: BackupDiskRecord): BackupDiskTable => ({
  backup_id: backupId,
  target: disk.target,
  number: disk.number,
  serial: disk.serial,
  source_path: disk.sourcePath,
  source_format: disk.sourceFormat,
  source_mark: disk.sourceMark === undefined ? null : JSON.stringify(disk.sourceMark),
  virtual_size_bytes: disk.virtualSizeBytes,
  type: disk.type,
  full_reason: disk.fullReason,
  file: disk.file,
  backing_file: disk.backingFile,
  changed_bytes: disk.changedBytes,
  read_bytes: disk.readBytes,
  stored_bytes: disk.storedBytes,
  cluster_bytes: disk.clusterBytes,
  sums_file: disk.sums.file,
  sums_sha256: disk.sums.sha256,
  sums_segments: disk.sums.segments,
  verified_at: null,
  damage: null,
});
