import { z } from 'zod';
import { repositoryRecord } from './repository.ts';

/** Fields that are optional came later: a restore that was begun before goes on without them. */
export const restorePlan = z.object({
  restoreId: z.string(),
  backupId: z.string(),
  /** The VM that was backed up. */
  vm: z.object({ uuid: z.string(), name: z.string() }),
  /** Name of the new VM; null to restore the VM itself. */
  as: z.string().nullable(),
  /** With `as`: what the new VM takes over from the one that was backed up. */
  keepUuid: z.boolean().optional(),
  keepMacs: z.boolean().optional(),
  linksDown: z.boolean().optional(),
  /** Targets, in the backup, of the disks to restore; null = all. */
  disks: z.array(z.string()).nullable().optional(),
  host: z.string(),
  /** Not the host the backup was taken on: it may not see the repository. */
  isOtherHost: z.boolean().optional(),
  /** What a person should know, as far as the catalog can tell. */
  warnings: z.array(z.string()).optional(),
  /** The VM was on this host, which is lost for good; null as far as known. */
  lostHost: z.string().nullable().optional(),
  repository: repositoryRecord,
  /** Where else the backup lies: taken when it cannot be read from `repository`. */
  others: z.array(repositoryRecord).optional(),
  /** Name of the backup's own repository. */
  home: z.string().optional(),
  timeLimitSeconds: z.int().positive(),
  start: z.boolean(),
  /** The VM boots on the backup, and its disks are pulled out of it afterwards; null rate = as fast as it goes. */
  quick: z.object({ rateBytesPerSecond: z.int().positive().nullable() }).optional(),
});
export type RestorePlan = z.infer<typeof restorePlan>;

/** The restored VM is the one that was backed up, whatever it is called: it must not be there twice. */
export const takesIdentity = ({ as, keepUuid }: Pick<RestorePlan, 'as' | 'keepUuid'>): boolean =>
  as === null || keepUuid === true;

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
  /** Nothing is replaced: nothing may lie at `path` when the disk is put there. */
  isNew: z.boolean().optional(),
  /** The VM's definition has the disk no more: it is added at this target. */
  attachAs: z.string().nullable().optional(),
});
export type DiskToRestore = z.infer<typeof diskToRestore>;

export const preparedRestore = z.object({
  /** UUID and name the VM has after the restore. */
  vm: z.object({ uuid: z.string(), name: z.string() }),
  /** The VM must be defined: it is new, or it is gone from the host. */
  define: z.boolean(),
  disks: z.array(diskToRestore).min(1),
  /** Disks the VM has and keeps as they are. */
  untouched: z.array(z.object({ target: z.string(), path: z.string().nullable() })).optional(),
  /** What a person should know before the VM runs. */
  warnings: z.array(z.string()).optional(),
});
export type PreparedRestore = z.infer<typeof preparedRestore>;

/** What a restore would do, by a dry run. */
export const restorePreview = z.object({
  dryRun: z.literal(true),
  vm: z.object({ uuid: z.string(), name: z.string() }),
  host: z.string(),
  /** The VM would be defined. */
  isNew: z.boolean(),
  disks: z.array(
    z.object({
      target: z.string(),
      action: z.enum(['replaced', 'created', 'created and added']),
      path: z.string(),
      format: z.enum(['qcow2', 'raw']),
      virtualSizeBytes: z.int().nonnegative(),
      /** At most. */
      writtenBytes: z.int().nonnegative(),
    }),
  ),
  untouched: z.array(z.object({ target: z.string(), path: z.string().nullable() })),
  warnings: z.array(z.string()),
  /** Why it would be refused if it were done now. */
  refused: z.array(z.string()),
});
export type RestorePreview = z.infer<typeof restorePreview>;

/** What a copy of one disk out of a backup needs to know of its restore. */
export type RestoreOfBackup = Pick<RestorePlan, 'restoreId' | 'backupId' | 'vm' | 'repository'>;

/** One disk of a backup as a further disk of a VM. */
export const diskRestorePlan = z.object({
  restoreId: z.string(),
  backupId: z.string(),
  /** The VM that was backed up. */
  vm: z.object({ uuid: z.string(), name: z.string() }),
  /** Target of the disk in the backup. */
  disk: z.string(),
  toVm: z.object({ uuid: z.string(), name: z.string() }),
  target: z.string().nullable(),
  path: z.string().nullable(),
  host: z.string(),
  isOtherHost: z.boolean(),
  repository: repositoryRecord,
  /** Where else the backup lies: taken when it cannot be read from `repository`. */
  others: z.array(repositoryRecord).optional(),
  /** Name of the backup's own repository. */
  home: z.string().optional(),
  timeLimitSeconds: z.int().positive(),
});
export type DiskRestorePlan = z.infer<typeof diskRestorePlan>;

export const preparedDisk = z.object({
  disk: diskToRestore,
  /** Target, bus and serial number it gets on the VM. */
  target: z.string(),
  bus: z.string(),
  serial: z.string().nullable(),
  wwn: z.string().nullable(),
  /** How its image was used where it came from: attributes of `<driver>`. */
  driver: z.record(z.string(), z.string()),
});
export type PreparedDisk = z.infer<typeof preparedDisk>;
