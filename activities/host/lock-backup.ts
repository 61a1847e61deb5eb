import type { BlobLock, BlobStore } from '../../repository/blob-store.ts';
import { manifestKey } from '../../repository/layout.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupToLock } from '../../schemas/plan.ts';
import { settingsOf, type RepositoryRecord } from '../../schemas/repository.ts';
import { readManifestChain } from './restore-chain.ts';

const DAY_MS = 86_400_000;
const LOCKS_AT_ONCE = 8;

/**
 * Locks a published backup, and all it is built on, for the days that the repository promises, from the backup's instant on: what
 * a living backup needs stays as long as it does. Its own manifest comes last: see `isLocked`. Repeatable; does nothing where
 * nothing was promised.
 * @throws BlobStoreError
 */
export async function lockBackup(store: BlobStore, repository: RepositoryRecord, backup: BackupToLock): Promise<void> {
  const lock = lockOf(repository, backup);
  if (lock === null) return;
  const { locks } = store;
  if (locks === undefined) {
    throw new HoldfastError(
      'InvalidRequest',
      `repository ${repository.name} cannot lock; see: holdfast repo lock --off`,
    );
  }
  const chain = await readManifestChain(store, backup.vmUuid, backup.id);
  const keys = [...chain.values()].flatMap(({ id, disks }) => [
    ...disks.flatMap(({ file, sums }) => [file, sums.file]),
    ...(id === backup.id ? [] : [manifestKey(backup.vmUuid, id)]),
  ]);
  const left = keys.values();
  const lockNext = async (): Promise<void> => {
    for (const key of left) await locks.lock(key, lock);
  };
  const lanes = await Promise.allSettled(Array.from({ length: LOCKS_AT_ONCE }, lockNext));
  for (const lane of lanes) if (lane.status === 'rejected') throw lane.reason;
  await locks.lock(manifestKey(backup.vmUuid, backup.id), lock);
}

/** Whether all that the repository promises of a backup is locked: its manifest is, which comes last. */
export async function isLocked(store: BlobStore, repository: RepositoryRecord, backup: BackupToLock): Promise<boolean> {
  const lock = lockOf(repository, backup);
  if (lock === null || store.locks === undefined) return true;
  const untilMs = await store.locks.lockedUntilMs(manifestKey(backup.vmUuid, backup.id));
  return untilMs !== undefined && untilMs >= Math.floor(lock.untilMs / 1000) * 1000; // servers may keep whole seconds
}

/** What the repository promises of a backup; null where it promises nothing. */
function lockOf(repository: RepositoryRecord, { instant }: BackupToLock): BlobLock | null {
  const { immutability } = settingsOf(repository);
  if (immutability === null) return null;
  return { mode: immutability.mode, untilMs: Date.parse(instant) + immutability.days * DAY_MS };
}

/**
 * Asks before anything is changed, so that nothing is removed by halves.
 * @throws HoldfastError BackupLocked, with the date
 */
export async function requireUnlocked(store: BlobStore, backupId: string, keys: readonly string[]): Promise<void> {
  const { locks } = store;
  if (locks === undefined) return;
  const until = Math.max(...(await Promise.all(keys.map((key) => locks.lockedUntilMs(key)))).map((ms) => ms ?? 0));
  if (until === 0 || keys.length === 0) return;
  throw new HoldfastError(
    'BackupLocked',
    `backup ${backupId}: the repository keeps its files until ${new Date(until).toISOString()}`,
  );
}
