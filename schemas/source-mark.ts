import { z } from 'zod';

/** What a disk's image was at the backup, beside its path and size: a bitmap does not tell. */
export const sourceMark = z.object({
  /** Birth time of the file in ns; null where the file system keeps none. To be compared on one host only. */
  born: z.string().nullable(),
  /** The images it is layered on, each with length and time of change; empty when on none, null when that is not known. */
  below: z.string().nullable(),
});
export type SourceMark = z.infer<typeof sourceMark>;
