import { join } from 'node:path';
import { z } from 'zod';
import { readJson, writeJson } from './json-notes.ts';
import type { RestoreNotes } from './restore-notes.ts';

/** What the host keeps of a quick restore beside the notes of every restore, until the disks depend on nothing. */
const quickRestoreNote = z.object({
  /** Definition of the VM before it; null when there was none. */
  formerXml: z.string().nullable(),
  /** Before they were set so that a failing read stops the guest; by path of the image. */
  policies: z.record(z.string(), z.object({ write: z.string().nullable(), read: z.string().nullable() })),
  booted: z.boolean(),
});
export type QuickRestoreNote = z.infer<typeof quickRestoreNote>;

const NAME = 'quick.json';

export const readQuickNote = (notes: RestoreNotes, restoreId: string): Promise<QuickRestoreNote | undefined> =>
  readJson(join(notes.folder(restoreId), NAME), quickRestoreNote);

export const writeQuickNote = (notes: RestoreNotes, restoreId: string, note: QuickRestoreNote): Promise<void> =>
  writeJson(notes.folder(restoreId), NAME, note);
