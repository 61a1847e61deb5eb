import { z } from 'zod';
import { repositoryRecord } from './repository.ts';
import { delta, imageLayer } from './delta.ts';
import { diskEncryption, passedOver } from './manifest.ts';
import { sourceMark } from './source-mark.ts';
import { backupType, consistency, fullReason, quiesceMode, strategy } from './states.ts';

/** What a run was asked to do, with every default filled in from offering and installation. */
export const backupTarget = z.object({
  vm: z.object({ uuid: z.string(), name: z.string() }),
  host: z.string(),
  repository: repositoryRecord,
  offering: z.string().nullable(),
  quiesce: quiesceMode,
  compression: z.enum(['zstd', 'none']),
  includeDisks: z.array(z.string()).default([]),
  excludeDisks: z.array(z.string()),
  strategy: strategy.default('checkpoint'),
  keepCheckpoints: z.int().min(1).default(2),
  chainSize: z.int(),
  timeLimitSeconds: z.int().positive(),
  tenant: z.string(),
  priority: z.int(),
  /** Operations started when the backup is stored, each a run of its own; by the name of their workflow. */
  followUps: z.array(z.enum(['compressBackup', 'validateBackup', 'copyBackup', 'applyRetention'])).optional(),
  /** The repository that `copyBackup` copies to. */
  copyTo: z.string().optional(),
});
export type BackupTarget = z.infer<typeof backupTarget>;

/** A disk as the hypervisor shows it now. */
export const diskFacts = z.object({
  target: z.string(),
  device: z.string(),
  sourceType: z.string(),
  sourcePath: z.string().nullable(),
  format: z.string(),
  serial: z.string().nullable(),
  /** Guest-visible size; null where the disk has no medium. */
  virtualSizeBytes: z.int().nonnegative().nullable(),
  shareable: z.boolean(),
  readOnly: z.boolean(),
  mark: sourceMark.optional(),
  /** Bitmaps of the active image, by the name of their checkpoint. */
  bitmaps: z.array(z.object({ name: z.string(), inconsistent: z.boolean(), recording: z.boolean() })),
  /** The images it is made of, the one that is written to first; only where strategy `snapshot` needs them. */
  layers: z.array(imageLayer).optional(),
});
export type DiskFacts = z.infer<typeof diskFacts>;

export const vmFacts = z.object({
  uuid: z.string(),
  name: z.string(),
  power: z.enum(['running', 'paused', 'shutoff', 'other']),
  disks: z.array(diskFacts),
  /** Checkpoints that libvirt lists, ours and others'. */
  checkpoints: z.array(z.string()),
  /** Files of the parent that are not as the catalog has them. */
  parentProblems: z.array(z.object({ file: z.string(), problem: z.enum(['missing', 'damaged']) })),
  /** libvirt snapshots that hold memory; only where strategy `snapshot` needs them. */
  memorySnapshots: z.array(z.string()).optional(),
});
export type VmFacts = z.infer<typeof vmFacts>;

export const plannedDisk = z.object({
  target: z.string(),
  number: z.int().nonnegative(),
  serial: z.string().nullable(),
  sourcePath: z.string().nullable(),
  sourceFormat: z.string(),
  sourceMark: sourceMark.optional(),
  virtualSizeBytes: z.int().nonnegative(),
  type: backupType,
  fullReason: fullReason.nullable(),
  /** File of the parent's disk that an incremental is layered on. */
  parentFile: z.string().nullable(),
  /** The image can hold a bitmap, so the new checkpoint covers it. */
  holdsBitmap: z.boolean(),
  /** Strategy `snapshot`: the overlay that freezes the images below it. */
  overlay: z
    .object({
      path: z.string(),
      /** The images it freezes, the one that was written to first. */
      frozen: z.array(imageLayer).min(1),
      /** How many of them, from the top, hold what changed since the parent; null for a full. */
      depth: z.int().positive().nullable(),
    })
    .optional(),
});
export type PlannedDisk = z.infer<typeof plannedDisk>;

export const backupPlan = z.object({
  backupId: z.string(),
  target: backupTarget,
  type: backupType,
  isolated: z.boolean(),
  parentId: z.string().nullable(),
  chainId: z.string().nullable(),
  position: z.int().positive().nullable(),
  endOfChain: z.boolean(),
  disks: z.array(plannedDisk).min(1),
  skippedDisks: z.array(z.object({ target: z.string(), reason: z.string() })),
  /** The VM does not run: its images are read where they lie. */
  stopped: z.boolean(),
  /** Leave a checkpoint at the instant: false where no incremental will follow. */
  checkpoint: z.boolean(),
  /** Backups whose checkpoints on this VM are left over and go before the new one is made. */
  staleCheckpoints: z.array(z.string()),
  /** Overlays that have to be merged away before the backup can be planned. */
  mergeFirst: z.array(delta).optional(),
  /** Younger backups of the chain that could not be built on, or were not to be; youngest first. */
  passedOver: z.array(passedOver).optional(),
  /** Backups with a bitmap that QEMU does not vouch for: it keeps the disk from being resized, so their checkpoints go. */
  spentCheckpoints: z.array(z.string()).optional(),
  requestedBy: z.string().nullable(),
});
export type BackupPlan = z.infer<typeof backupPlan>;

/** A disk of the frozen instant, ready to be read. */
export const diskExport = z.object({
  target: z.string(),
  socketPath: z.string(),
  exportName: z.string(),
  mapContext: z.string(),
  /** Key of the file to be written. */
  file: z.string(),
  /** For `qemu:allocation-depth`: how many layers, from the top, hold what changed. */
  allocationDepth: z.int().positive().optional(),
});
export type DiskExport = z.infer<typeof diskExport>;

export const begunBackup = z.object({
  /** UTC, ISO 8601. */
  instant: z.string(),
  consistency,
  freezeMs: z.int().nonnegative().nullable(),
  /** Why a guest that was to be frozen if possible was not. */
  notFrozen: z.string().nullable(),
  /** The agent hung in its freeze and has not confirmed a thaw yet. */
  thawPending: z.boolean(),
  exports: z.array(diskExport),
  /** Overlays that were put on, with what they froze. */
  deltas: z.array(delta).optional(),
});
export type BegunBackup = z.infer<typeof begunBackup>;

export const copiedDisk = z.object({
  target: z.string(),
  file: z.string(),
  changedBytes: z.int().nonnegative(),
  readBytes: z.int().nonnegative(),
  storedBytes: z.int().nonnegative(),
  encryption: diskEncryption.optional(),
  clusterBytes: z.int().positive(),
  sums: z.object({ file: z.string(), sha256: z.string(), segments: z.int() }),
  attempts: z.int().positive(),
  /** Segments of earlier attempts that were not copied again. */
  resumedSegments: z.int().nonnegative().optional(),
});
export type CopiedDisk = z.infer<typeof copiedDisk>;

/** A published backup, as its lock needs it: what it is built on is in its manifest. */
export interface BackupToLock {
  vmUuid: string;
  id: string;
  instant: string;
}

/** What a copy says of itself while it runs; small, for people. */
export const copyHeartbeat = z.object({
  target: z.string(),
  copiedBytes: z.number(),
  totalBytes: z.number(),
  storedBytes: z.number(),
});
export type CopyHeartbeat = z.infer<typeof copyHeartbeat>;

/** Answer of the query `progress`, which every operation has. */
export const operationProgress = z.object({
  operation: z.string(),
  vm: z.string(),
  step: z.string(),
  waitingFor: z.string().nullable(),
  backupId: z.string().nullable(),
});
export type OperationProgress = z.infer<typeof operationProgress>;
