import { z } from 'zod';

const merged = z.object({ id: z.string(), instant: z.string().nullable(), storedBytes: z.int().nonnegative() });

/** An increment becomes a full of the same content; the full it was built on goes. */
export const merge = z.object({ full: merged, into: merged });
export type Merge = z.infer<typeof merge>;

export const mergedChain = z.object({
  vm: z.object({ uuid: z.string(), name: z.string() }),
  chainId: z.string(),
  repository: z.string(),
  /** Done; of a dry run, what would be. */
  merges: z.array(merge),
  /** Why no more were merged though more were meant. */
  blocked: z.string().nullable(),
  dryRun: z.boolean(),
});
export type MergedChain = z.infer<typeof mergedChain>;
