import { z } from 'zod';
import { blobKey, uuid } from './names.ts';
import { repositoryRecord } from './repository.ts';

/** Where a check is in the order of files: those that were compared with their hashes longest ago come first. */
export const checkPlace = z.object({ unverifiedSince: z.string(), backupId: z.string(), target: z.string() });
export type CheckPlace = z.infer<typeof checkPlace>;

/** A stored file whose bytes are to be compared with its manifest's hashes. */
export const fileToCheck = checkPlace.extend({
  vm: z.object({ uuid, name: z.string() }),
  file: blobKey,
  storedBytes: z.int().nonnegative(),
});
export type FileToCheck = z.infer<typeof fileToCheck>;

/** What a check is to do, and how far it is. Files that were written or verified since `before` are none of its. */
export const checkPlan = z.object({
  checkId: uuid,
  repository: repositoryRecord,
  vmUuid: uuid.nullable(),
  startedAt: z.iso.datetime(),
  before: z.iso.datetime(),
  files: z.int().nonnegative(),
  bytes: z.int().nonnegative(),
  rateBytesPerSecond: z.int().positive().nullable(),
});
export type CheckPlan = z.infer<typeof checkPlan>;

/** A file that is not as its manifest says, or not there. */
export const damagedFile = z.object({ backupId: z.string(), vm: z.string(), file: z.string(), message: z.string() });
export type DamagedFile = z.infer<typeof damagedFile>;

export const checkProgress = z.object({
  place: checkPlace.nullable(),
  files: z.int().nonnegative(),
  bytes: z.int().nonnegative(),
  damagedCount: z.int().nonnegative(),
  /** The first of them. */
  damaged: z.array(damagedFile),
});
export type CheckProgress = z.infer<typeof checkProgress>;

/** What became of one file; undefined `message`: its bytes are right. `gone`: it belongs to no backup any more. */
export interface CheckedFile {
  file: FileToCheck;
  outcome: 'right' | 'damaged' | 'gone';
  message?: string;
}

/** What a check came to, as an event keeps it. */
export const checkedRepository = z.object({
  repository: z.string(),
  files: z.int(),
  bytes: z.int(),
  damagedFiles: z.int(),
});

/** What a check came to. */
export interface CheckedRepository {
  repository: string;
  /** Files whose bytes were read, and how many bytes. */
  files: number;
  bytes: number;
  damagedFiles: number;
  /** The first of them. */
  damaged: DamagedFile[];
  /** Backups whose mark was taken away: their bytes are right again. */
  healed: string[];
  /** The longest that any file of what was looked at has not been compared now; null without files. */
  unverifiedSince: string | null;
}
