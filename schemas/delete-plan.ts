import { z } from 'zod';
import { backupState } from './states.ts';

/** What a delete does, and what it leaves. */
export const deletePlan = z.object({
  backupId: z.string(),
  vm: z.object({ uuid: z.string(), name: z.string() }),
  chainId: z.string().nullable(),
  /** Copies go, in this repository; the originals stay as they are. */
  copiesIn: z.string().optional(),
  /** The backup is hidden and its files are kept: others are built on it. */
  hide: z.boolean(),
  /** Backups whose files go, leaf first. `state` is what each was before. */
  expunge: z.array(
    z.object({
      id: z.string(),
      state: backupState,
      files: z.array(z.string()),
      storedBytes: z.int().nonnegative(),
    }),
  ),
  /** Living backups that keep the files of the hidden one. */
  neededBy: z.array(z.string()),
  freedBytes: z.int().nonnegative(),
  /** The newest of an open chain goes: the chain is over. */
  endsChain: z.boolean(),
});
export type DeletePlan = z.infer<typeof deletePlan>;
