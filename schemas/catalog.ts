import { z } from 'zod';
import { sourceMark } from './source-mark.ts';
import { plainName, uuid, vmName } from './names.ts';
import { retentionRules } from './retention.ts';
import { backupType, consistency, fullReason, quiesceMode, strategy, validationStep, vmState } from './states.ts';

export const hostRecord = z.object({
  name: plainName,
  /** How many disks may be copied at once. */
  slots: z.int().positive(),
  libvirtAddress: z.string().nullable(),
  libvirtVersion: z.string().nullable(),
  qemuVersion: z.string().nullable(),
  /** ISO 8601, of the last inventory; null before the first. */
  lastSeenAt: z.iso.datetime().nullable(),
});
export type HostRecord = z.infer<typeof hostRecord>;

export const powerState = z.enum(['running', 'paused', 'shutoff', 'other']);
export type PowerState = z.infer<typeof powerState>;

/** One VM as one host's inventory saw it. */
export const vmSighting = z.object({
  uuid,
  name: vmName,
  host: plainName,
  power: powerState,
  disks: z.array(
    z.object({
      target: z.string(),
      format: z.string(),
      path: z.string().nullable(),
      sizeBytes: z.int().nullable(),
    }),
  ),
});
export type VmSighting = z.infer<typeof vmSighting>;

export const vmRecord = z.object({
  uuid,
  name: z.string(),
  /** Where it runs, or was last seen. */
  host: z.string(),
  power: powerState,
  state: vmState,
  /** What went wrong, for `BackupError` and `RestoreError`. */
  error: z.string().nullable(),
  offering: z.string().nullable(),
  lastSeenAt: z.iso.datetime().nullable(),
  disks: vmSighting.shape.disks,
});
export type VmRecord = z.infer<typeof vmRecord>;

/** A command that a validation runs in the throw-away VM; nothing goes through a shell. */
export const validationCommand = z.object({
  /** Absolute path of the program, then its arguments. */
  argv: z.array(z.string()).min(1),
  exitCode: z.int().default(0),
  /** What it must print, without the white space at both ends; null = whatever. */
  output: z.string().nullable().default(null),
  timeoutSeconds: z.int().positive().default(60),
});
export type ValidationCommand = z.infer<typeof validationCommand>;

/** What a VM is protected by. A change acts from the next backup on. */
export const offering = z.object({
  name: plainName,
  /** Below 1 = unlimited, 1 = every backup full. */
  chainSize: z.int().default(8),
  repository: plainName.nullable().default(null),
  strategy: strategy.default('checkpoint'),
  /** How many checkpoints stay on the VM: older ones than the current serve when newer backups are lost. */
  keepCheckpoints: z.int().min(1).max(16).default(2),
  quiesce: quiesceMode.default('prefer'),
  /** Targets like `vdb`; empty = all but `excludeDisks`. */
  includeDisks: z.array(z.string()).default([]),
  excludeDisks: z.array(z.string()).default([]),
  /** `inline` = zstd while copying, `deferred` = a job of its own after it. `zstd` is another word for `inline`. */
  compression: z.preprocess(
    (given) => (given === 'zstd' ? 'inline' : given),
    z.enum(['inline', 'deferred', 'none']).default('inline'),
  ),
  /** What validates each new backup; empty = nothing does. */
  validation: z.array(validationStep).default([]),
  validationCommand: validationCommand.nullable().default(null),
  /** How long the guest agent of a validated VM may take to answer. */
  bootTimeoutSeconds: z.int().positive().default(240),
  endChainOnNotValid: z.boolean().default(false),
  quickRestore: z.boolean().default(false),
  retention: retentionRules.nullable().default(null),
  /** Each new backup is copied to this repository. */
  copyTo: plainName.nullable().default(null),
  /** Which copies stay there; null = all. */
  copyRetention: retentionRules.nullable().default(null),
  timeLimitSeconds: z.int().positive().default(43_200),
  compressionTimeLimitSeconds: z.int().positive().default(28_800),
  tenant: z.string().default('default'),
  /** 1 first, 5 last. */
  priority: z.int().min(1).max(5).default(3),
});
export type Offering = z.infer<typeof offering>;

/** A disk of a stored backup, with what the next backup and a restore need of it. */
export const backupDiskRecord = z.object({
  target: z.string(),
  number: z.int().nonnegative(),
  serial: z.string().nullable(),
  sourcePath: z.string().nullable(),
  sourceFormat: z.string(),
  sourceMark: sourceMark.optional(),
  virtualSizeBytes: z.int().nonnegative(),
  type: backupType,
  fullReason: fullReason.nullable(),
  file: z.string(),
  backingFile: z.string().nullable(),
  changedBytes: z.int().nonnegative(),
  readBytes: z.int().nonnegative(),
  storedBytes: z.int().nonnegative(),
  clusterBytes: z.int().positive(),
  sums: z.object({ file: z.string(), sha256: z.string(), segments: z.int() }),
});
export type BackupDiskRecord = z.infer<typeof backupDiskRecord>;

/** Where a backup stands before its first byte: written by planBackup. */
export const newBackup = z.object({
  id: uuid,
  vmUuid: uuid,
  vmName: z.string(),
  type: backupType,
  parentId: uuid.nullable(),
  chainId: uuid.nullable(),
  position: z.int().positive().nullable(),
  isolated: z.boolean(),
  endOfChain: z.boolean(),
  host: z.string(),
  repository: z.string(),
  compression: z.enum(['zstd', 'none']),
  strategy: strategy.default('checkpoint'),
  /** What the VM was protected by at that time. */
  offering: z.string().nullable().default(null),
  requestedBy: z.string().nullable().default(null),
  workflowId: z.string(),
  runId: z.string(),
});
export type NewBackup = z.input<typeof newBackup>;

export const completedBackup = z.object({
  id: uuid,
  consistency,
  instant: z.iso.datetime(),
  durationMs: z.int().nonnegative(),
  disks: z.array(backupDiskRecord),
  /** XML of the checkpoint that marks the instant on the VM; null when the VM holds none. */
  checkpointXml: z.string().nullable(),
});
export type CompletedBackup = z.infer<typeof completedBackup>;

/** What an operation asks for before it touches anything; it gets all of it at once, or waits. */
export const admissionRequest = z.object({
  /** Unique per run of an operation: a backup id, a restore id. */
  operationId: uuid,
  operation: z.string(),
  workflowId: z.string(),
  runId: z.string(),
  /** Exclusive. */
  vmUuid: uuid.nullable(),
  chain: z.object({ id: uuid, mode: z.enum(['shared', 'exclusive']) }).nullable(),
  /** A slot of each. */
  host: z.string().nullable(),
  repository: z.string().nullable(),
  tenant: z.string(),
  /** 0 = restores, then 1 to 5. */
  priority: z.int().min(0).max(5),
  /** The backup that is being restored while this is granted. */
  restoresBackupId: uuid.nullable().optional(),
});
export type AdmissionRequest = z.infer<typeof admissionRequest>;
