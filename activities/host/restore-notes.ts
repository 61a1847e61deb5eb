import { join } from 'node:path';
import { rm } from 'node:fs/promises';
import { z } from 'zod';
import { uuid } from '../../schemas/names.ts';
import { diskRestorePlan, preparedDisk, preparedRestore, restorePlan } from '../../schemas/restore-plan.ts';
import { listIds, readJson, writeJson } from './json-notes.ts';

/** `swapping`: disks may be swapped in part. `swapped`: all are, the former ones may go. */
const restoreNote = z.object({
  plan: restorePlan,
  prepared: preparedRestore,
  phase: z.enum(['writing', 'swapping', 'swapped']),
  /** Of the files that were written, by target: of a disk where none was, no other is removed. */
  fileIds: z.record(z.string(), z.string()).optional(),
  /** The VM that is there since is ours. */
  isDefining: z.boolean().optional(),
  /** UEFI variables and TPM state that were put back, and where the former one is kept; null where there was none. */
  keptFiles: z.array(z.object({ place: z.string(), former: z.string().nullable() })).optional(),
});
export type RestoreNote = z.infer<typeof restoreNote>;

/** `attaching`: the file may have its name, and the VM the disk. `attached`: the VM may use it. */
const diskNote = z.object({
  plan: diskRestorePlan,
  prepared: preparedDisk,
  phase: z.enum(['writing', 'attaching', 'attached']),
  /** Of the file that was written, so that no other is removed. */
  fileId: z.string().nullable(),
});
export type DiskNote = z.infer<typeof diskNote>;

/** What the host keeps of a restore while it runs, so that it can be undone or ended after a crash. */
export class RestoreNotes {
  readonly #root: string;
  constructor(root: string) {
    this.#root = root;
  }

  folder = (restoreId: string): string => join(this.#root, uuid.parse(restoreId));

  read = (restoreId: string): Promise<RestoreNote | undefined> =>
    readJson(join(this.folder(restoreId), 'restore.json'), restoreNote);
  write = (restoreId: string, note: RestoreNote): Promise<void> =>
    writeJson(this.folder(restoreId), 'restore.json', note);
  /** The same for the restore of a single disk to another VM. */
  readDisk = (restoreId: string): Promise<DiskNote | undefined> =>
    readJson(join(this.folder(restoreId), 'disk.json'), diskNote);
  writeDisk = (restoreId: string, note: DiskNote): Promise<void> =>
    writeJson(this.folder(restoreId), 'disk.json', note);
  list = (): Promise<{ id: string; touchedMs: number }[]> => listIds(this.#root);

  async remove(restoreId: string): Promise<void> {
    await rm(this.folder(restoreId), { recursive: true, force: true });
  }
}
