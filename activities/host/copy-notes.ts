import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { copyPlan } from '../../schemas/copy.ts';
import { manifestDisk } from '../../schemas/manifest.ts';
import { blobKey, uuid } from '../../schemas/names.ts';
import { listIds, readJson, writeJson } from './json-notes.ts';

const copyNote = z.object({
  plan: copyPlan,
  /** When the first attempt began: the time limit counts from there. */
  startedMs: z.number(),
  /** Files that were begun in the target. */
  files: z.array(
    z.object({
      file: blobKey,
      token: z.string(),
      /** Of a file that gets another form on the way: what came of it, once all its bytes are written. */
      recrypted: manifestDisk.pick({ storedBytes: true, encryption: true, sums: true }).optional(),
    }),
  ),
});
export type CopyNote = z.infer<typeof copyNote>;

/** What the host keeps of a backup's copy while it is made, so that a new attempt goes on, and its files are found again. */
export class CopyNotes {
  readonly #root: string;
  constructor(root: string) {
    this.#root = root;
  }

  #folder = (operationId: string): string => join(this.#root, uuid.parse(operationId));

  read = (operationId: string): Promise<CopyNote | undefined> =>
    readJson(join(this.#folder(operationId), 'copy.json'), copyNote);
  write = (note: CopyNote): Promise<void> => writeJson(this.#folder(note.plan.operationId), 'copy.json', note);
  list = (): Promise<{ id: string; touchedMs: number }[]> => listIds(this.#root);

  async remove(operationId: string): Promise<void> {
    await rm(this.#folder(operationId), { recursive: true, force: true });
  }
}
