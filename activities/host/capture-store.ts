import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { keptFile } from '../../schemas/manifest.ts';
import { uuid } from '../../schemas/names.ts';
import { backupPlan, begunBackup, copiedDisk } from '../../schemas/plan.ts';
import { listIds, readJson, writeJson } from './json-notes.ts';

/**
 * What the host keeps of a backup while it runs, so that a new worker goes on where a killed one stopped. The backup
 * job lives in QEMU on this host, so its notes live on this host too.
 */
export const capture = z.object({
  plan: backupPlan,
  /**
   * `beginning`: the job may or may not have begun, the guest may be frozen. `sealing`: a stopped
   * VM's images are given their new bitmaps. `publishing`: the manifest may exist.
   */
  phase: z.enum(['beginning', 'begun', 'sealing', 'publishing', 'aborted']),
  begun: begunBackup.nullable(),
  domainXml: z.object({ inactive: z.string(), live: z.string().nullable() }),
  checkpointXml: z.string().nullable(),
  files: z.array(keptFile),
  versions: z.record(z.string(), z.string()),
  startedMs: z.number(),
  /** Of a stopped VM's images, by target: what they were when they were opened. */
  stamps: z.record(z.string(), z.string()).optional(),
});
export type Capture = z.infer<typeof capture>;

/** How far one disk's file is. `copied`: its bytes are all there, the upload may still have to be finished. */
const draft = z.object({ key: z.string(), token: z.string(), copied: copiedDisk.nullable() });
export type Draft = z.infer<typeof draft>;

export class CaptureStore {
  readonly #root: string;
  constructor(root: string) {
    this.#root = root;
  }

  folder(backupId: string): string {
    return join(this.#root, uuid.parse(backupId));
  }
  journalPath = (backupId: string, target: string): string => join(this.folder(backupId), `${target}.journal`);

  read = (backupId: string): Promise<Capture | undefined> =>
    readJson(join(this.folder(backupId), 'capture.json'), capture);
  write = (backupId: string, content: Capture): Promise<void> =>
    writeJson(this.folder(backupId), 'capture.json', content);

  readDraft = (backupId: string, target: string): Promise<Draft | undefined> =>
    readJson(join(this.folder(backupId), `${target}.draft.json`), draft);
  writeDraft = (backupId: string, target: string, content: Draft): Promise<void> =>
    writeJson(this.folder(backupId), `${target}.draft.json`, content);

  async remove(backupId: string): Promise<void> {
    await rm(this.folder(backupId), { recursive: true, force: true });
  }

  /** Backups that left notes. */
  list = (): Promise<{ id: string; touchedMs: number }[]> => listIds(this.#root);
}
