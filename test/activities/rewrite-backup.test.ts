import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { HostDependencies } from '../../activities/host/dependencies.ts';
import { Fence } from '../../activities/host/fence.ts';
import { Paces } from '../../activities/host/paces.ts';
import { createRewriteBackup } from '../../activities/host/rewrite-backup.ts';
import { RewriteNotes } from '../../activities/host/rewrite-notes.ts';
import { createSwapRewritten } from '../../activities/host/swap-rewritten.ts';
import type { RewriteOptions } from '../../copier/contract.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { rewriterOf } from '../../repository/layout.ts';
import { createManifest, readManifest } from '../../repository/manifest.ts';
import { writeSums } from '../../repository/sums.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import type { RewritePlan, RewrittenFiles } from '../../schemas/rewrite-plan.ts';
import { REPOSITORY_ID } from '../support/blob-store-suite.ts';
import { manifestOf } from '../support/sample-manifest.ts';

const BACKUP = '00000000-0000-4000-8000-000000000001';
const OPERATION = '00000000-0000-4000-8000-00000000000a';

let root: string;
let store: BlobStore;
let notes: RewriteNotes;
let manifest: Manifest;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'holdfast-rewrite-'));
  store = createDirectoryStore(root);
  await initRepository(store, { id: REPOSITORY_ID });
  notes = new RewriteNotes(join(root, '.notes'));
  manifest = manifestOf(BACKUP);
  const [disk] = manifest.disks;
  await store.putBlob(disk!.file, Buffer.alloc(100));
  disk!.sums = await writeSums(store, disk!.file, [{ offset: 0, lengthBytes: 100, sha256: 'a'.repeat(64) }]);
  await createManifest(store, manifest);
});
afterEach(() => rm(root, { recursive: true, force: true }));

const plan = (): RewritePlan => ({
  operationId: OPERATION,
  operation: 'compressBackup',
  backupId: BACKUP,
  vm: manifest.vm,
  repository: {
    name: 'main',
    id: REPOSITORY_ID,
    location: { kind: 'directory', path: root },
    slots: 1,
    createdAt: '2026-11-21T12:00:00.000Z',
  },
  compression: 'zstd',
  timeLimitSeconds: 60,
});

/** What goes wrong here is meant to: nothing is logged. */
const environment = () => new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR', () => undefined) });

/** The steps, with a copier that does what a test says. */
function stepsWith(rewriteFile: (options: RewriteOptions) => Promise<unknown>, free?: number) {
  const dependencies = {
    copier: { rewriteFile },
    openStore: () => ({ ...store, freeSpaceBytes: () => Promise.resolve(free) }),
    fence: new Fence(),
    paces: new Paces(() => undefined),
    rewrites: notes,
  } as unknown as HostDependencies;
  const job = createRewriteBackup(dependencies);
  const swap = createSwapRewritten(dependencies);
  return {
    rewrite: () =>
      environment().run<[], RewrittenFiles, () => Promise<RewrittenFiles>>(() => job.rewriteBackup(plan())),
    undo: () => environment().run(() => swap.undoRewrite(plan())),
  };
}

const temporaries = async (): Promise<string[]> =>
  (await Array.fromAsync(store.listBlobs(''))).map(({ key }) => key).filter((key) => rewriterOf(key) !== undefined);

/** Goes on until it is told to stop. */
const endless = ({ signal }: RewriteOptions): Promise<never> =>
  new Promise((_, reject) => {
    const stop = (): void => reject(signal.reason as Error);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop);
  });

describe('rewriteBackup', () => {
  it('counts its time from the first attempt on, whatever attempt this is', async () => {
    const { rewrite, undo } = stepsWith(endless);
    const startedMs = Date.now() - 61_000;
    await notes.write({ plan: plan(), startedMs, files: [manifest.disks[0]!.file], done: [] });
    await expect(rewrite()).rejects.toMatchObject({ type: 'TimeLimitReached' });
    await undo();
    expect(await temporaries()).toEqual([]);
    expect(await notes.list()).toEqual([]);
    expect(await readManifest(store, manifest.vm.uuid, BACKUP)).toEqual(manifest);
  });

  it('asks for room before the first byte', async () => {
    const { rewrite } = stepsWith(endless, 99);
    await expect(rewrite()).rejects.toMatchObject({ type: 'RepositoryFull' });
    expect(await temporaries()).toEqual([]);
  });

  it('does not do again what an earlier attempt finished', async () => {
    let calls = 0;
    const { rewrite } = stepsWith(({ sink }) => {
      calls += 1;
      expect(sink.blobKey).toContain(OPERATION);
      return Promise.resolve({
        storedBytes: 0,
        segments: [],
        clusterBytes: 65_536,
        describedBytes: 0,
      });
    });
    const first = await rewrite();
    expect(first.disks).toHaveLength(1);
    expect(await rewrite()).toEqual(first);
    expect(calls).toBe(1);
  });

  it('keeps nothing of a file that does not get smaller', async () => {
    const { rewrite } = stepsWith(() =>
      Promise.resolve({ storedBytes: 100, segments: [], clusterBytes: 65_536, describedBytes: 0 }),
    );
    expect(await rewrite()).toEqual({ disks: [], found: 'rewritten' });
    expect(await temporaries()).toEqual([]);
  });
});
