import { z } from 'zod';
import { repositoryRecord } from './repository.ts';
import { manifestDisk } from './manifest.ts';
import { backupType } from './states.ts';

/** Operations that write the files of a stored backup anew. */
export const rewriteOperation = z.enum(['compressBackup', 'mergeBackups']);
export type RewriteOperation = z.infer<typeof rewriteOperation>;

export const rewritePlan = z.object({
  /** Names the files beside, the notes, and the admission. */
  operationId: z.string(),
  operation: rewriteOperation,
  backupId: z.string(),
  vm: z.object({ uuid: z.string(), name: z.string() }),
  repository: repositoryRecord,
  /** How the new files are stored. */
  compression: z.enum(['zstd', 'none']),
  /** Counted from when the work really starts, all attempts together. */
  timeLimitSeconds: z.int().positive(),
});
export type RewritePlan = z.infer<typeof rewritePlan>;

/** A new file of one disk beside the one it is to replace. */
export const rewrittenDisk = z.object({
  formerSums: z.string(),
  replacement: manifestDisk.shape.replacement.unwrap(),
});

export const rewrittenFiles = z.object({
  /** Those that are worth it; empty when the backup's files stay as they are. */
  disks: z.array(rewrittenDisk),
  /**
   * `rewritten`: `disks` wait to be swapped in. `done`: an earlier run came to its end, only the catalog does not know.
   * `unfinished`: an earlier run was cut off in its swap, which only wants to be finished.
   */
  found: z.enum(['rewritten', 'done', 'unfinished']),
});
export type RewrittenFiles = z.infer<typeof rewrittenFiles>;

/** What the manifest says once files were swapped. */
export const swappedBackup = z.object({
  type: backupType,
  parentId: z.string().nullable(),
  compression: z.enum(['zstd', 'none']),
  disks: z.array(manifestDisk),
});
export type SwappedBackup = z.infer<typeof swappedBackup>;

/** How a compression ended. `not-smaller`: its files do not compress, and stay. */
export const compressionOutcome = z.object({
  outcome: z.enum(['compressed', 'already-compressed', 'not-smaller']),
  beforeBytes: z.int().nonnegative(),
  afterBytes: z.int().nonnegative(),
});
export type CompressionOutcome = z.infer<typeof compressionOutcome>;
