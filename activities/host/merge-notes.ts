import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { uuid } from '../../schemas/names.ts';
import { readJson, writeJson } from './json-notes.ts';

const note = z.object({ paths: z.array(z.string()) });

/**
 * Overlays whose merge has begun, by VM; kept on the host, so that the successor of a killed worker tells an overlay that
 * was merged from one that the VM went on without for another reason.
 */
export class MergeNotes {
  readonly #root: string;
  constructor(root: string) {
    this.#root = root;
  }

  async begun(vmUuid: string): Promise<Set<string>> {
    return new Set((await readJson(join(this.#folder(vmUuid), 'merging.json'), note))?.paths ?? []);
  }

  async begin(vmUuid: string, paths: string[]): Promise<void> {
    const all = await this.begun(vmUuid);
    for (const path of paths) all.add(path);
    await writeJson(this.#folder(vmUuid), 'merging.json', { paths: [...all] });
  }

  async forget(vmUuid: string): Promise<void> {
    await rm(this.#folder(vmUuid), { recursive: true, force: true });
  }

  #folder = (vmUuid: string): string => join(this.#root, uuid.parse(vmUuid));
}
