import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlobStore } from '../repository/blob-store.ts';
import { serveBackup } from './backup-disks.ts';
import { Guestfish } from './guestfish.ts';

/** A backup whose disks a small VM has, read-only. Nothing is mounted yet. */
export interface OpenFiles extends AsyncDisposable {
  fish: Guestfish;
  /** Of its disks, in the order in which the small VM has them. */
  targets: string[];
}

/** Serves the disks of a backup to a small VM of libguestfs. All that is made for it lies in one private folder. */
export async function openFiles(
  store: BlobStore,
  backup: { vmUuid: string; backupId: string },
  { signal }: { signal: AbortSignal },
): Promise<OpenFiles> {
  await using made = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-files-')); // 0700: its sockets give whole disks
  made.defer(() => rm(folder, { recursive: true, force: true }));
  const { disks } = made.use(await serveBackup(store, backup, { folder, signal }));
  const fish = made.use(await Guestfish.start(disks, { folder, signal }));
  const kept = made.move();
  return { fish, targets: disks.map(({ target }) => target), [Symbol.asyncDispose]: () => kept.disposeAsync() };
}
