import type { BlobLock, BlobLocks } from './blob-store.ts';
import { BlobStoreError } from './blob-store.ts';
import type { S3Control, StoredObject } from './s3-control.ts';
import { unlessGone } from './s3-upload.ts';

const SECOND_MS = 1000;

interface Act {
  act: string;
  key: string;
}

/**
 * Object lock of S3: a version of an object that cannot be removed before a date. It needs a bucket made for it, which keeps
 * versions: there a plain DELETE hides an object and a PUT adds a version, so both could seem to succeed on a locked object.
 * Source: Amazon S3 user guide, "Locking objects with Object Lock"
 * @param objectKeyOf the bucket's key of a blob
 */
export const s3Locks = (control: () => Promise<S3Control>, objectKeyOf: (key: string) => string): BlobLocks => ({
  async problem() {
    const server = await control();
    const { objectLock, versioning } = await server.lockSupport({ act: "look for the bucket's object lock" });
    if (!objectLock)
      return 'the bucket has no object lock; it can be had for a new bucket, and on AWS for one with versioning';
    return versioning ? undefined : 'the bucket keeps no versions; object lock needs them: switch versioning on';
  },

  async lock(key, lock) {
    const server = await control();
    const objectKey = objectKeyOf(key);
    const present = await server.head({ act: `look for the lock of ${key}`, key }, objectKey);
    if ((present.lock?.untilMs ?? 0) >= Math.floor(lock.untilMs / SECOND_MS) * SECOND_MS) return;
    await server.setLock({ act: `lock ${key}`, key }, objectKey, lock);
  },

  async lockedUntilMs(key) {
    const server = await control();
    const present = await server.head({ act: `look for the lock of ${key}`, key }, objectKeyOf(key)).catch(unlessGone);
    return lockOf(present)?.untilMs;
  },
});

/** The lock that keeps an object now. Servers tell the whole second of a time that they keep more exactly. */
export const lockOf = (present: StoredObject | undefined): BlobLock | undefined =>
  present?.lock !== undefined && present.lock.untilMs + SECOND_MS > Date.now() ? present.lock : undefined;

/** @throws BlobStoreError `locked`, with the date */
export function requireNotLocked(present: StoredObject | undefined, { act, key }: Act): void {
  const lock = lockOf(present);
  if (lock === undefined) return;
  const until = new Date(lock.untilMs).toISOString();
  throw new BlobStoreError('locked', `cannot ${act}: the bucket keeps it until ${until} (${lock.mode})`, { key });
}

/**
 * Removes an object for good: where the bucket keeps versions, all of them, the one that is seen last, so that a removal that
 * was cut off is found again.
 * @throws BlobStoreError `locked`
 */
export async function removeObject(server: S3Control, act: Act, objectKey: string): Promise<void> {
  const present = await server.head(act, objectKey).catch(unlessGone);
  requireNotLocked(present, act);
  if (present === undefined) return;
  if (present.versionId === undefined) return await server.delete(act, objectKey).catch(unlessGone);
  const versions = (await Array.fromAsync(server.versions(act, objectKey))).filter((id) => id !== present.versionId);
  for (const versionId of [...versions, present.versionId])
    await server.delete(act, objectKey, versionId).catch(unlessGone);
}
