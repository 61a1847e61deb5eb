import { z } from 'zod';
import { validationCommand } from './catalog.ts';
import { diskTarget, plainName, uuid, vmName } from './names.ts';
import { quiesceMode, strategy, validationStep } from './states.ts';

const vm = vmName.describe('name or UUID of the VM');

/** What `takeBackup` takes; `{"vm": "web-1"}` is enough. */
export const takeBackupRequest = z.strictObject({
  vm,
  /** A full backup inside the chain: it starts a new chain. */
  full: z.boolean().optional(),
  /** A full backup outside any chain. */
  isolated: z.boolean().optional(),
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
});
export type TakeBackupRequest = z.infer<typeof takeBackupRequest>;

export const restoreVmRequest = z.strictObject({
  backupId: uuid,
  /** Restore as a new VM of this name: new UUID, new MACs, disks beside the former ones. */
  as: vmName.optional(),
  host: plainName.optional(),
  start: z.boolean().optional(),
  timeLimitSeconds: z.int().positive().optional(),
  requestedBy: z.string().max(200).optional(),
});
export type RestoreVmRequest = z.infer<typeof restoreVmRequest>;

export const deleteBackupRequest = z.strictObject({
  backupId: uuid,
  /** The whole chain, leaf first. */
  force: z.boolean().optional(),
  /** Only tell what would go and what would stay. */
  dryRun: z.boolean().optional(),
});
export type DeleteBackupRequest = z.infer<typeof deleteBackupRequest>;

export const finishChainRequest = z.strictObject({
  vm,
  /** The VM's offering was taken away: nothing to finish is fine, and a host that does not answer holds up nothing. */
  unprotected: z.boolean().optional(),
});
export type FinishChainRequest = z.infer<typeof finishChainRequest>;

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

export const inventoryHostRequest = z.strictObject({ host: plainName });
export type InventoryHostRequest = z.infer<typeof inventoryHostRequest>;

export const reclaimOrphansRequest = z.strictObject({
  host: plainName.optional(),
  dryRun: z.boolean().optional(),
  /** What is younger is left alone: it may belong to a run that has only begun. */
  graceSeconds: z.int().nonnegative().optional(),
});
export type ReclaimOrphansRequest = z.infer<typeof reclaimOrphansRequest>;
