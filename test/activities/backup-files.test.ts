import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Draft } from '../../activities/host/capture-store.ts';
import { createCopyDisk } from '../../activities/host/copy-disk.ts';
import type { HostDependencies } from '../../activities/host/dependencies.ts';
import { createEndBackup, type AbortedBackup } from '../../activities/host/end-backup.ts';
import { Fence } from '../../activities/host/fence.ts';
import { Paces } from '../../activities/host/paces.ts';
import { HostState } from '../../activities/host/host-state.ts';
import type { CopyDiskOptions } from '../../copier/contract.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { sumsKey } from '../../repository/layout.ts';
import { fileSinkOf, openSink } from '../../repository/sink.ts';
import type { BackupPlan, CopiedDisk, DiskExport } from '../../schemas/plan.ts';
import { REPOSITORY_ID } from '../support/blob-store-suite.ts';

const BACKUP = '00000000-0000-4000-8000-000000000001';
const VM = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';
const DISK: DiskExport = {
  target: 'vda',
  socketPath: '/run/vda.sock',
  exportName: 'vda',
  mapContext: 'base:allocation',
  file: `${VM}/disk-0/full-20261121-120000.qcow2`,
};
const CONTENT = Buffer.from('a disk');

let root: string;
let store: BlobStore;
let draft: Draft | undefined;
let plan: BackupPlan;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'holdfast-files-'));
  store = createDirectoryStore(root);
  draft = undefined;
  await initRepository(store, { id: REPOSITORY_ID });
  const repository = { name: 'main', id: REPOSITORY_ID, location: { kind: 'directory', path: root } };
  plan = {
    backupId: BACKUP,
    target: { vm: { uuid: VM, name: 'web-1' }, repository, quiesce: 'none', compression: 'none' },
    disks: [{ target: 'vda', number: 0, virtualSizeBytes: 65_536, parentFile: null }],
  } as unknown as BackupPlan;
});
afterEach(() => rm(root, { recursive: true, force: true }));

/** What goes wrong here is meant to: nothing is logged. */
const environment = () => new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR', () => undefined) });

/** The steps of a backup of one disk, whose copier writes `CONTENT`. */
function steps() {
  const dependencies = {
    host: 'kvm-1',
    libvirt: { lookupByUuid: () => Promise.resolve(undefined) },
    state: new HostState({ stateDir: join(root, '.s'), scratchDir: join(root, '.x'), runtimeDir: join(root, '.r') }),
    openStore: () => store,
    fence: new Fence(),
    paces: new Paces(() => undefined),
    captures: {
      read: () => Promise.resolve({ plan, phase: 'begun', begun: { exports: [DISK], thawPending: false } }),
      readDraft: () => Promise.resolve(draft),
      writeDraft: (_backup: string, _target: string, content: Draft) => Promise.resolve(void (draft = content)),
      remove: () => Promise.resolve(),
      journalPath: () => join(root, '.journal'),
    },
    copier: {
      copyDisk: async (options: CopyDiskOptions) => {
        await using sink = await openSink(fileSinkOf(options));
        await sink.write(0, CONTENT);
        const storedBytes = CONTENT.length;
        return { changedBytes: 0, readBytes: 0, storedBytes, clusterBytes: 65_536, segments: [] };
      },
    },
  } as unknown as HostDependencies;
  const copy = createCopyDisk(dependencies);
  const end = createEndBackup(dependencies);
  return {
    copyDisk: () => environment().run<[], CopiedDisk, () => Promise<CopiedDisk>>(() => copy.copyDisk(plan, DISK)),
    abortBackup: () =>
      environment().run<[], AbortedBackup, () => Promise<AbortedBackup>>(() => end.abortBackup(BACKUP, plan.target)),
  };
}

describe('the file of a disk', () => {
  it('goes in place of an upload whose token no attempt came to note', async () => {
    await store.createUpload(DISK.file, { expectedBytes: 0 });
    await steps().copyDisk();
    expect(await store.getBlob(DISK.file)).toEqual(CONTENT);
  });

  it('that is finished, under the same name, is another backup’s: it stays, and so do its sums', async () => {
    await store.putBlob(DISK.file, Buffer.from('of another backup'));
    await store.putBlob(sumsKey(DISK.file), Buffer.from('sums of another backup'));
    const { copyDisk, abortBackup } = steps();
    await expect(copyDisk()).rejects.toMatchObject({
      type: 'DestinationExists',
      message: expect.stringContaining(DISK.file) as string,
    });
    expect(await abortBackup()).toEqual({ published: null, leftInRepository: null });
    expect((await store.getBlob(DISK.file)).toString()).toBe('of another backup');
    expect((await store.getBlob(sumsKey(DISK.file))).toString()).toBe('sums of another backup');
  });

  it('goes with its sums when its backup is undone, finished or not', async () => {
    const { copyDisk, abortBackup } = steps();
    await copyDisk();
    await abortBackup();
    draft = undefined;
    await store.createUpload(DISK.file, { expectedBytes: 0 });
    await abortBackup();
    expect((await Array.fromAsync(store.listBlobs(''))).map(({ key }) => key)).toEqual(['repository.json']);
    expect(await Array.fromAsync(store.listUploads(''))).toEqual([]);
  });
});
