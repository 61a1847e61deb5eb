import { join } from 'node:path';
import { rm } from 'node:fs/promises';
import { z } from 'zod';
import { uuid } from '../../schemas/names.ts';
import { preparedRestore, restorePlan } from '../../schemas/restore-plan.ts';
import { listIds, readJson, writeJson } from './json-notes.ts';

/** `swapping`: disks may be swapped in part. `swapped`: all are, the former ones may go. */
const restoreNote = z.object({
  plan: restorePlan,
  prepared: preparedRestore,
  phase: z.enum(['writing', 'swapping', 'swapped']),
});
export type RestoreNote = z.infer<typeof restoreNote>;

/** What the host keeps of a restore while it runs, so that it can be undone or ended after a crash. */
export class RestoreNotes {
  readonly #root: string;
  constructor(root: string) {
    this.#root = root;
  }

  #folder = (restoreId: string): string => join(this.#root, uuid.parse(restoreId));

  read = (restoreId: string): Promise<RestoreNote | undefined> =>
    readJson(join(this.#folder(restoreId), 'restore.json'), restoreNote);
  write = (restoreId: string, note: RestoreNote): Promise<void> =>
    writeJson(this.#folder(restoreId), 'restore.json', note);
  list = (): Promise<{ id: string; touchedMs: number }[]> => listIds(this.#root);

  async remove(restoreId: string): Promise<void> {
    await rm(this.#folder(restoreId), { recursive: true, force: true });
  }
}
