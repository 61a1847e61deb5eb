import { z } from 'zod';
import { repositoryRecord } from './catalog.ts';

export const restorePlan = z.object({
  restoreId: z.string(),
  backupId: z.string(),
  /** The VM that was backed up. */
  vm: z.object({ uuid: z.string(), name: z.string() }),
  /** Name of the new VM; null to restore the VM itself. */
  as: z.string().nullable(),
  host: z.string(),
  repository: repositoryRecord,
  timeLimitSeconds: z.int().positive(),
  start: z.boolean(),
});
export type RestorePlan = z.infer<typeof restorePlan>;

/** One disk to be written: beside first, then swapped into `path`. */
export const diskToRestore = z.object({
  target: z.string(),
  /** The backups whose files make up the disk, base first, by manifest and key. */
  chain: z.array(z.object({ backupId: z.string(), file: z.string() })).min(1),
  virtualSizeBytes: z.int().nonnegative(),
  /** Where the disk lives when the restore is done. */
  path: z.string(),
  /** Where it is written first. */
  besidePath: z.string(),
  /** Where the disk that was at `path` is kept until all are swapped. */
  formerPath: z.string(),
  format: z.enum(['qcow2', 'raw']),
});
export type DiskToRestore = z.infer<typeof diskToRestore>;

export const preparedRestore = z.object({
  /** UUID and name the VM has after the restore. */
  vm: z.object({ uuid: z.string(), name: z.string() }),
  /** The VM must be defined: it is new, or it is gone from the host. */
  define: z.boolean(),
  disks: z.array(diskToRestore).min(1),
});
export type PreparedRestore = z.infer<typeof preparedRestore>;
