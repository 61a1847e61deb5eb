import type { BlobStore } from '../../repository/blob-store.ts';
import { manifestKey } from '../../repository/layout.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { settingsOf, type RepositoryRecord } from '../../schemas/repository.ts';
import { readManifestChain } from './restore-chain.ts';

const DAY_MS = 86_400_000;
const LOCKS_AT_ONCE = 8;

/**
 * Locks a published backup, and all it is built on, for the days that the repository promises, from the backup's instant on: what
 * a living backup needs stays as long as it does. Repeatable; does nothing where nothing was promised.
 * @throws BlobStoreError
 */
export async function lockBackup(
  store: BlobStore,
  repository: RepositoryRecord,
  backup: { vmUuid: string; id: string; instant: string },
): Promise<void> {
  const { immutability } = settingsOf(repository);
  if (immutability === null) return;
  const { locks } = store;
  if (locks === undefined) {
    throw new HoldfastError(
      'InvalidRequest',
      `repository ${repository.name} cannot lock; see: holdfast repo lock --off`,
    );
  }
  const lock = { mode: immutability.mode, untilMs: Date.parse(backup.instant) + immutability.days * DAY_MS };
  const chain = await readManifestChain(store, backup.vmUuid, backup.id);
  const keys = [...chain.values()].flatMap(({ id, disks }) => [
    ...disks.flatMap(({ file, sums }) => [file, sums.file]),
    manifestKey(backup.vmUuid, id),
  ]);
  const left = keys.values();
  const lockNext = async (): Promise<void> => {
    for (const key of left) await locks.lock(key, lock);
  };
  const lanes = await Promise.allSettled(Array.from({ length: LOCKS_AT_ONCE }, lockNext));
  for (const lane of lanes) if (lane.status === 'rejected') throw lane.reason;
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
