import { z } from 'zod';
import { backupState, backupType, compressionState, consistency, fullReason, validationState } from './states.ts';

/** One disk of a backup, as the command line and JSON show it. */
export const backupDisk = z.object({
  target: z.string(),
  type: backupType,
  fullReason: fullReason.nullable(),
  /** Key of the qcow2 file in the repository. */
  file: z.string(),
  virtualSizeBytes: z.int().nonnegative(),
  /** What the change map calls changed (full: allocated). */
  changedBytes: z.int().nonnegative(),
  /** What was read from the VM's disk. */
  readBytes: z.int().nonnegative(),
  /** Length of the stored file. */
  storedBytes: z.int().nonnegative(),
});

/** A backup as scripts see it; `holdfast backup show --json`. */
export const backup = z.object({
  id: z.string(),
  vm: z.object({ uuid: z.string(), name: z.string() }),
  type: backupType,
  state: backupState,
  parentId: z.string().nullable(),
  chainId: z.string().nullable(),
  /** 1 = the full at the start of the chain; null for an isolated backup. */
  position: z.int().positive().nullable(),
  isolated: z.boolean(),
  endOfChain: z.boolean(),
  consistency: consistency.nullable(),
  /** UTC, ISO 8601: the point in time all disks share. */
  instant: z.string().nullable(),
  host: z.string(),
  repository: z.string(),
  compression: compressionState,
  validation: validationState,
  disks: z.array(backupDisk),
  storedBytes: z.int().nonnegative(),
  durationMs: z.int().nonnegative(),
});
export type Backup = z.infer<typeof backup>;

export const restoredVm = z.object({
  vm: z.object({ uuid: z.string(), name: z.string() }),
  disks: z.array(z.object({ target: z.string(), path: z.string(), verified: z.boolean() })),
  /** Where the backup was read from, when that was a copy and not the backup in its own repository. */
  repository: z.string().optional(),
  /** What a person should know before the VM runs. */
  warnings: z.array(z.string()).optional(),
  /** Of a quick restore: the job that makes the disks independent of the backup, and verifies it. */
  consolidation: z.string().optional(),
});
export type RestoredVm = z.infer<typeof restoredVm>;
