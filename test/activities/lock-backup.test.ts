import { randomUUID } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { lockBackup, requireUnlocked } from '../../activities/host/lock-backup.ts';
import type { BlobLock, BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { manifestKey } from '../../repository/layout.ts';
import { replaceManifest } from '../../repository/manifest.ts';
import type { Immutability, RepositoryRecord } from '../../schemas/repository.ts';
import { manifestOf } from '../support/sample-manifest.ts';
import { tempDir } from '../support/temp.ts';

const DAY_MS = 86_400_000;

/** A directory store, with locks as a bucket has them: a fake that only notes them. */
async function lockingStore() {
  const folder = await tempDir();
  const store = createDirectoryStore(folder.path);
  const id = randomUUID();
  await initRepository(store, { id });
  const noted = new Map<string, BlobLock>();
  const locking: BlobStore = {
    ...store,
    locks: {
      problem: () => Promise.resolve(undefined),
      lock: async (key, lock) => void noted.set(key, lock),
      lockedUntilMs: async (key) => noted.get(key)?.untilMs,
    },
  };
  const repository = (immutability: Immutability | null): RepositoryRecord => ({
    name: 'offsite',
    id,
    location: { kind: 'directory', path: folder.path },
    slots: 1,
    createdAt: '2026-11-21T00:00:00.000Z',
    settings: { encryption: null, identity: null, immutability, owner: null },
  });
  return { store: locking, noted, repository, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}

describe('lockBackup', () => {
  it('locks the backup and all it is built on, from its instant on', async () => {
    await using bed = await lockingStore();
    const full = manifestOf(randomUUID());
    const [disk] = full.disks;
    const file = disk!.file.replace('full', 'incr');
    const next = manifestOf(randomUUID(), {
      type: 'incremental',
      parentId: full.id,
      disks: [
        { ...disk!, type: 'incremental', file, backingFile: disk!.file, sums: { ...disk!.sums, file: `${file}.sums` } },
      ],
    });
    for (const manifest of [full, next, manifestOf(randomUUID())]) await replaceManifest(bed.store, manifest);
    const repository = bed.repository({ mode: 'compliance', days: 30 });
    const instant = '2026-11-21T12:00:00.000Z';
    await lockBackup(bed.store, repository, { vmUuid: full.vm.uuid, id: next.id, instant });
    const lock = { mode: 'compliance', untilMs: Date.parse(instant) + 30 * DAY_MS };
    expect(Object.fromEntries(bed.noted)).toEqual(
      Object.fromEntries(
        [
          ...[disk!.file, `${disk!.file}.sums`, file, `${file}.sums`],
          ...[full, next].map(({ id, vm }) => manifestKey(vm.uuid, id)),
        ].map((key) => [key, lock]),
      ),
    );
  });

  it('locks nothing where nothing was promised', async () => {
    await using bed = await lockingStore();
    await lockBackup(bed.store, bed.repository(null), { vmUuid: randomUUID(), id: randomUUID(), instant: '' });
    expect(bed.noted.size).toBe(0);
  });
});

describe('requireUnlocked', () => {
  it('names the last date of all that would go', async () => {
    await using bed = await lockingStore();
    for (const [key, untilMs] of [
      ['a', DAY_MS],
      ['b', 2 * DAY_MS],
    ] as const) {
      await bed.store.locks!.lock(key, { mode: 'governance', untilMs });
    }
    await requireUnlocked(bed.store, 'x', ['c']);
    await expect(requireUnlocked(bed.store, 'x', ['a', 'b', 'c'])).rejects.toMatchObject({
      type: 'BackupLocked',
      message: expect.stringContaining('until 1970-01-03T00:00:00.000Z') as string,
    });
  });
});
