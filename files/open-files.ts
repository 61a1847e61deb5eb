import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openBackup } from '../gateway/open-backup.ts';
import type { BlobStore } from '../repository/blob-store.ts';
import type { RepositoryKeys } from '../repository/repository-keys.ts';
import { Guestfish } from './guestfish.ts';

/** A backup whose disks a small VM has, read-only. Nothing is mounted yet. */
export interface OpenFiles extends AsyncDisposable {
  fish: Guestfish;
  /** Of its disks, in the order in which the small VM has them. */
  targets: string[];
}

/**
 * Serves the disks of a backup to a small VM of libguestfs, every byte compared with its hash. All that is made for it lies in
 * one private folder, and what serves is this process: nothing stays when it ends, however that may be.
 * @param options.keys of an encrypted repository; null where there are none
 * @param options.onProblem why the small VM was refused something
 */
export async function openFiles(
  store: BlobStore,
  backup: { vmUuid: string; backupId: string },
  options: { keys: RepositoryKeys | null; onProblem: (error: Error) => void; signal: AbortSignal },
): Promise<OpenFiles> {
  await using made = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'holdfast-files-')); // 0700: its sockets give whole disks
  made.defer(() => rm(folder, { recursive: true, force: true }));
  const { keys, onProblem, signal } = options;
  const served = made.use(await openBackup(store, backup, { socketFolder: folder, keys, onProblem }));
  const disks = served.disks.map(({ target, socketPath }) => ({ target, socketPath, exportName: target }));
  const fish = made.use(await Guestfish.start(disks, { folder, signal }));
  const kept = made.move();
  return { fish, targets: disks.map(({ target }) => target), [Symbol.asyncDispose]: () => kept.disposeAsync() };
}
