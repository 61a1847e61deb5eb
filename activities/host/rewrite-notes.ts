import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { blobKey, uuid } from '../../schemas/names.ts';
import { rewritePlan, rewrittenDisk } from '../../schemas/rewrite-plan.ts';
import { listIds, readJson, writeJson } from './json-notes.ts';

const rewriteNote = z.object({
  plan: rewritePlan,
  /** When the first attempt began: the time limit counts from there. */
  startedMs: z.number(),
  /** The backup's files, whatever becomes of its manifest. */
  files: z.array(blobKey),
  /** Files that are looked at: with the new one beside, or null where it would not be worth it. */
  done: z.array(z.object({ file: blobKey, rewritten: rewrittenDisk.nullable() })),
});
export type RewriteNote = z.infer<typeof rewriteNote>;

/** What the host keeps of a backup's rewriting while it runs, so that a new attempt goes on, and its files are found again. */
export class RewriteNotes {
  readonly #root: string;
  constructor(root: string) {
    this.#root = root;
  }

  #folder = (operationId: string): string => join(this.#root, uuid.parse(operationId));

  read = (operationId: string): Promise<RewriteNote | undefined> =>
    readJson(join(this.#folder(operationId), 'rewrite.json'), rewriteNote);
  write = (note: RewriteNote): Promise<void> => writeJson(this.#folder(note.plan.operationId), 'rewrite.json', note);
  list = (): Promise<{ id: string; touchedMs: number }[]> => listIds(this.#root);

  async remove(operationId: string): Promise<void> {
    await rm(this.#folder(operationId), { recursive: true, force: true });
  }
}
