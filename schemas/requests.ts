import { z } from 'zod';
import { validationCommand } from './catalog.ts';
import { checkPlan, checkProgress } from './check.ts';
import { quiesceMode, strategy, validationStep } from './states.ts';
import { diskTarget, filePath, plainName, uuid, vmName } from './names.ts';

const vm = vmName.describe('name or UUID of the VM');

/** What `takeBackup` takes; `{"vm": "web-1"}` is enough. */
export const takeBackupRequest = z.strictObject({
  vm,
  /** A full backup inside the chain: it starts a new chain. */
  full: z.boolean().optional(),
  /** A full backup outside any chain. */
  isolated: z.boolean().optional(),
  /** An increment on this backup of the open chain, whose checkpoint must still live. */
  since: uuid.optional(),
  quiesce: quiesceMode.optional(),
  offering: plainName.optional(),
  repository: plainName.optional(),
  includeDisks: z.array(diskTarget).optional(),
  excludeDisks: z.array(diskTarget).optional(),
  strategy: strategy.optional(),
  compression: z.enum(['zstd', 'none']).optional(),
  /** Below 1 = unlimited, 1 = every backup full. */
  chainSize: z.int().optional(),
  /** One budget for all disks of the run. */
  timeLimitSeconds: z.int().positive().optional(),
  requestedBy: z.string().max(200).optional(),
  /** Not begun at all if it is not admitted by then. */
  startBefore: z.iso.datetime().optional(),
});
export type TakeBackupRequest = z.infer<typeof takeBackupRequest>;

const rateMBps = z.number().positive().max(1_000_000);

export const restoreVmRequest = z.strictObject({
  backupId: uuid,
  /** Restore as a new VM of this name: new UUID, new MACs, disks beside the former ones. */
  as: vmName.optional(),
  /** With `as`: the new VM has the UUID of the one that was backed up, which must be on no host any more. */
  keepUuid: z.boolean().optional(),
  /** With `as`: the new VM has the MAC addresses of the one that was backed up. */
  keepMacs: z.boolean().optional(),
  /** With `as`: the new VM's network cables are unplugged. */
  linksDown: z.boolean().optional(),
  /** Only these disks of the VM itself, by their targets in the backup; what else the VM has stays. */
  disks: z.array(diskTarget).min(1).optional(),
  host: plainName.optional(),
  /** The host the VM was on is lost for good: its word is not waited for. */
  formerHostLost: z.boolean().optional(),
  start: z.boolean().optional(),
  /** Only tell what would be done. */
  dryRun: z.boolean().optional(),
  /** The VM boots on the backup within seconds; its disks are pulled out of it while it runs. */
  quick: z.boolean().optional(),
  /** With `quick`: megabytes (10^6 bytes) per second that are pulled; default as fast as it goes. */
  rateMBps: rateMBps.optional(),
  /** From the copy in this repository. Default: the backup's own, else a healthy copy. */
  repository: plainName.optional(),
  timeLimitSeconds: z.int().positive().optional(),
  requestedBy: z.string().max(200).optional(),
});
export type RestoreVmRequest = z.infer<typeof restoreVmRequest>;

/** One disk of a backup as a further disk of a VM, which may run: `{"backupId": "…", "disk": "vda", "toVm": "web-2"}`. */
export const restoreDiskRequest = z.strictObject({
  backupId: uuid,
  /** Target the disk has in the backup. */
  disk: diskTarget,
  toVm: vm,
  /** Target the disk gets on that VM; default the first free one. */
  target: diskTarget.optional(),
  /** The file it becomes; default a new one beside the VM's disks, named by backup and disk. */
  path: filePath.optional(),
  /** Only tell what would be done. */
  dryRun: z.boolean().optional(),
  /** From the copy in this repository. Default: the backup's own, else a healthy copy. */
  repository: plainName.optional(),
  timeLimitSeconds: z.int().positive().optional(),
  requestedBy: z.string().max(200).optional(),
});
export type RestoreDiskRequest = z.infer<typeof restoreDiskRequest>;
/** Pulls the disks of a quickly restored VM out of its backup until they depend on nothing. */
export const consolidateDisksRequest = z.strictObject({
  vm,
  /** Megabytes (10^6 bytes) per second from now on; 0 = as fast as it goes; default as before. */
  rateMBps: z.union([z.literal(0), rateMBps]).optional(),
  /** Instead: puts the former disks and definition back; what the guest wrote since is lost. The VM must be off. */
  undo: z.boolean().optional(),
});
export type ConsolidateDisksRequest = z.infer<typeof consolidateDisksRequest>;

export const deleteBackupRequest = z.strictObject({
  backupId: uuid,
  /** The whole chain, leaf first. */
  force: z.boolean().optional(),
  /** Its copies go too. */
  copies: z.boolean().optional(),
  /** Only the copy in this repository goes. */
  repository: plainName.optional(),
  /** Only tell what would go and what would stay. */
  dryRun: z.boolean().optional(),
});
export type DeleteBackupRequest = z.infer<typeof deleteBackupRequest>;

/** What `applyRetention` takes: `{"vm": "web-1"}`, or `{}` for every VM whose offering has retention. */
export const applyRetentionRequest = z.strictObject({
  vm: vm.optional(),
  /** Only tell what would go and what would stay. */
  dryRun: z.boolean().optional(),
});
export type ApplyRetentionRequest = z.infer<typeof applyRetentionRequest>;

export const finishChainRequest = z.strictObject({
  vm,
  /** The VM's offering was taken away: nothing to finish is fine, and a host that does not answer holds up nothing. */
  unprotected: z.boolean().optional(),
});
export type FinishChainRequest = z.infer<typeof finishChainRequest>;

/** What `normalizeVm` takes: repairs what overlays of strategy `snapshot` are on the VM's disks. */
export const normalizeVmRequest = z.strictObject({ vm });
export type NormalizeVmRequest = z.infer<typeof normalizeVmRequest>;

export const validateBackupRequest = z.strictObject({
  backupId: uuid,
  /** Default: those of the VM's offering, else `hash`, `boot` and `screenshot`. */
  steps: z.array(validationStep).min(1).optional(),
  /** What `command` runs in the guest; without one that step is skipped. */
  command: validationCommand.optional(),
  /** Default: where the backup was taken, else any host that has the repository. */
  host: plainName.optional(),
  requestedBy: z.string().max(200).optional(),
});
export type ValidateBackupRequest = z.input<typeof validateBackupRequest>;

export const compressBackupRequest = z.strictObject({
  backupId: uuid,
  /** Default: that of the VM's offering. */
  timeLimitSeconds: z.int().positive().optional(),
  requestedBy: z.string().max(200).optional(),
});
export type CompressBackupRequest = z.infer<typeof compressBackupRequest>;

/** What `copyBackup` takes: `{"backupId": "…", "to": "off-site"}`. */
export const copyBackupRequest = z.strictObject({
  backupId: uuid,
  /** The repository that gets a copy. */
  to: plainName,
  /** Only tell what would be copied. */
  dryRun: z.boolean().optional(),
  /** Copies in a repository that is not encrypted may be plain though their originals are encrypted. */
  decrypt: z.boolean().optional(),
  timeLimitSeconds: z.int().positive().optional(),
  requestedBy: z.string().max(200).optional(),
});
export type CopyBackupRequest = z.infer<typeof copyBackupRequest>;

/** What `copyRepository` takes: `{"to": "off-site"}` for all backups that have no copy there. */
export const copyRepositoryRequest = z.strictObject({
  to: plainName,
  /** Only backups of this repository. */
  from: plainName.optional(),
  vm: vm.optional(),
  /** Only tell what would be copied. */
  dryRun: z.boolean().optional(),
  /** Copies in a repository that is not encrypted may be plain though their originals are encrypted. */
  decrypt: z.boolean().optional(),
  timeLimitSeconds: z.int().positive().optional(),
  requestedBy: z.string().max(200).optional(),
});
export type CopyRepositoryRequest = z.infer<typeof copyRepositoryRequest>;

/** Merges the oldest increments of a VM's chain into the full beneath them: `{"vm": "web-1", "keep": 7}`. */
export const mergeBackupsRequest = z.strictObject({
  vm,
  /** As many backups stay in the chain, at most. Default: one less than there are. */
  keep: z.int().positive().optional(),
  /** Default: the only one that has a chain of the VM. */
  repository: plainName.optional(),
  /** Only tell what would be merged. */
  dryRun: z.boolean().optional(),
});
export type MergeBackupsRequest = z.infer<typeof mergeBackupsRequest>;

export const inventoryHostRequest = z.strictObject({ host: plainName });
export type InventoryHostRequest = z.infer<typeof inventoryHostRequest>;

export const reclaimOrphansRequest = z.strictObject({
  host: plainName.optional(),
  dryRun: z.boolean().optional(),
  /** What is younger is left alone: it may belong to a run that has only begun, or to another installation. */
  graceSeconds: z.int().nonnegative().optional(),
  /** Only what hosts and catalog note of ended runs; no look through repositories and checkpoints. */
  quick: z.boolean().optional(),
});
export type ReclaimOrphansRequest = z.infer<typeof reclaimOrphansRequest>;

/** What `rescanRepository` takes: `{"repository": "main"}`. */
export const rescanRepositoryRequest = z.strictObject({
  repository: plainName,
  /** Only tell what would be taken over. */
  dryRun: z.boolean().optional(),
  /** Given by a run to the one that goes on with it. */
  goesOn: z.strictObject({ after: uuid.nullable(), summary: z.unknown() }).optional(),
});
export type RescanRepositoryRequest = z.infer<typeof rescanRepositoryRequest>;

/** What `checkRepository` takes: `{"repository": "main"}` reads every file. */
export const checkRepositoryRequest = z.strictObject({
  repository: plainName,
  /** Only backups of this VM. */
  vm: vm.optional(),
  /** Only so many of all files: those that were compared with their hashes longest ago. */
  samplePercent: z.number().positive().max(100).optional(),
  /** Only files that were not compared for so long. */
  sinceAgeSeconds: z.int().nonnegative().optional(),
  /** What is read at most, beside the limit of the repository. */
  rateBytesPerSecond: z.int().positive().optional(),
  requestedBy: z.string().max(200).optional(),
  /** Given by a run to the one that goes on with it. */
  goesOn: z.strictObject({ plan: checkPlan, progress: checkProgress }).optional(),
});
export type CheckRepositoryRequest = z.infer<typeof checkRepositoryRequest>;
