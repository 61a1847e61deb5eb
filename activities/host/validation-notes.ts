import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { diskTarget, uuid } from '../../schemas/names.ts';
import type { HostState } from './host-state.ts';
import { listIds, readJson, writeJson } from './json-notes.ts';

/** What a throw-away VM is made of, noted before any of it is made. */
const throwAwayNote = z.object({
  validationId: uuid,
  backupId: uuid,
  /** UUID of the domain. */
  uuid,
  /** Disks that a qemu-nbd was started for, by versions that had no gateway. */
  targets: z.array(diskTarget).optional(),
});
export type ThrowAwayNote = z.infer<typeof throwAwayNote>;

/** The host's notes of its throw-away VMs, so that what one leaves behind is found after a crash. */
export class ValidationNotes {
  readonly #root: string;
  constructor(state: HostState) {
    this.#root = state.validationsFolder;
  }

  #folder = (validationId: string): string => join(this.#root, uuid.parse(validationId));

  read = (validationId: string): Promise<ThrowAwayNote | undefined> =>
    readJson(join(this.#folder(validationId), 'throw-away.json'), throwAwayNote);
  write = (note: ThrowAwayNote): Promise<void> => writeJson(this.#folder(note.validationId), 'throw-away.json', note);
  list = (): Promise<{ id: string; touchedMs: number }[]> => listIds(this.#root);

  async remove(validationId: string): Promise<void> {
    await rm(this.#folder(validationId), { recursive: true, force: true });
  }
}

/** The name libvirt shows the throw-away VM of a backup under. */
export const throwAwayName = (backupId: string): string => `holdfast-validate-${backupId}`;

/** The backup a domain of that name is validated for; undefined for everybody else's. */
export function backupOfThrowAway(name: string): string | undefined {
  return /^holdfast-validate-([0-9a-f-]{36})$/.exec(name)?.[1];
}
