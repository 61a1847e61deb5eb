import { z } from 'zod';
import { backupDiskRecord } from './catalog.ts';
import { plainName } from './names.ts';
import { repositoryRecord, settingsOf, type RepositoryRecord } from './repository.ts';
import { backupType } from './states.ts';

/**
 * `Removed`: hidden, its files stay for copies that are built on it. `Expunged`: its files are gone. `CopyError`: nothing
 * of it is in the repository; the next run tries again.
 */
export const copyState = z.enum(['Copying', 'Copied', 'CopyError', 'Removed', 'Expunged']);
export type CopyState = z.infer<typeof copyState>;

/** A backup's mirror in another repository, as scripts see it. */
export const backupCopy = z.object({
  repository: z.string(),
  state: copyState,
  storedBytes: z.int().nonnegative(),
  /** ISO 8601. */
  copiedAt: z.string().nullable(),
  /** When its stored bytes were last compared with their sums. */
  verifiedAt: z.string().nullable(),
  /** Why it cannot be relied on; null as far as known. */
  damage: z.string().nullable(),
  failure: z.object({ type: z.string(), message: z.string() }).nullable(),
});
export type BackupCopy = z.infer<typeof backupCopy>;

/** What the copy of one backup takes. */
export const copyPlan = z.object({
  /** Names the notes, the fence, and the admission. */
  operationId: z.string(),
  backupId: z.string(),
  vm: z.object({ uuid: z.string(), name: z.string() }),
  from: repositoryRecord,
  to: repositoryRecord,
  /** The copy may be plain though the original is encrypted: only where that was asked for. */
  decrypt: z.boolean().optional(),
  /** Counted from when the work really starts, all attempts together. */
  timeLimitSeconds: z.int().positive(),
});
export type CopyPlan = z.infer<typeof copyPlan>;

/** Why nothing is copied from one repository to another; undefined where it can be: copies are never silently plain. */
export function decryptionProblem(
  from: RepositoryRecord,
  to: RepositoryRecord,
  { decrypt }: { decrypt: boolean },
): string | undefined {
  if (decrypt || settingsOf(from).encryption === null || settingsOf(to).encryption !== null) return undefined;
  return (
    `repository ${from.name} is encrypted and ${to.name} is not: copies there would be plain. Copy to an encrypted ` +
    'repository, or say that this is meant: --decrypt'
  );
}

/** What the manifest of a copy says. */
export const copiedBackup = z.object({
  type: backupType,
  parentId: z.string().nullable(),
  disks: z.array(backupDiskRecord),
  /** Bytes that were written; 0 when the copy was there already. */
  writtenBytes: z.int().nonnegative(),
});
export type CopiedBackup = z.infer<typeof copiedBackup>;

/** A backup that a run copies, or would copy. */
export const backupToCopy = z.object({
  id: z.string(),
  instant: z.string().nullable(),
  /** As the original takes; encrypted files take a little more than plain ones. */
  storedBytes: z.int().nonnegative(),
  parentId: z.string().nullable(),
  /** Not wanted for itself: others are built on it. */
  isAncestor: z.boolean(),
});
export type BackupToCopy = z.infer<typeof backupToCopy>;

/** A backup that cannot be copied, and why. */
export const blockedCopy = z.object({ id: z.string(), type: z.string(), message: z.string() });
export type BlockedCopy = z.infer<typeof blockedCopy>;

/** What came of copying backups of one VM. */
export const copiedVm = z.object({
  vm: z.object({ uuid: z.string(), name: z.string() }),
  repository: plainName,
  dryRun: z.boolean(),
  /** Parents before their children. */
  copied: z.array(backupToCopy),
  /** Were there before. */
  present: z.int().nonnegative(),
  /** Of a dry run: more than are shown. */
  left: z.int().nonnegative(),
  problems: z.array(blockedCopy),
  writtenBytes: z.int().nonnegative(),
});
export type CopiedVm = z.infer<typeof copiedVm>;
