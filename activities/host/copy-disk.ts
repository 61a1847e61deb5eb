import { Context } from '@temporalio/activity';
import { CopierError } from '../../copier/contract.ts';
import { BlobStoreError, type BlobStore, type BlobUpload } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { nameOfKey } from '../../repository/layout.ts';
import { writeSums } from '../../repository/sums.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { BackupPlan, CopiedDisk, CopyHeartbeat, DiskExport } from '../../schemas/plan.ts';
import { settingsOf } from '../../schemas/repository.ts';
import { cancellationSignal } from '../cancellation.ts';
import { runningBackupJob } from './backup-job.ts';
import { createSnapshotCapture } from './capture-snapshot.ts';
import { createStoppedCapture } from './capture-stopped.ts';
import type { Draft } from './capture-store.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { unlessHostFull } from './host-full.ts';
import { SpaceClaims } from './space-claims.ts';

/** What a file needs beyond its data: tables, sums, and room for the manifest. */
const SPACE_MARGIN_BYTES = 16 * 1024 * 1024;

/** Names the copies of a backup for the fence. */
export const copyFence = (backupId: string, target: string): string => `copy ${backupId} ${target}`;

export const createCopyDisk = (dependencies: HostDependencies) => {
  const stopped = createStoppedCapture(dependencies);
  const snapshots = createSnapshotCapture(dependencies);
  const claims = new SpaceClaims();
  const { host, libvirt, copier, openStore, captures, fence, paces, state } = dependencies;

  return {
    /**
     * Copies the changed extents of one disk into its file in the repository, which no manifest names yet.
     * Repeatable: a new attempt goes on after the last segment the file holds.
     * @throws BackupJobLost, HostFull, RepositoryUnavailable, RepositoryFull, RepositoryReadOnly
     */
    async copyDisk(plan: BackupPlan, disk: DiskExport): Promise<CopiedDisk> {
      const context = Context.current();
      const planned = plan.disks.find(({ target }) => target === disk.target);
      if (planned === undefined) throw new HoldfastError('InvalidRequest', `disk ${disk.target} is not in the plan`);
      return await fence.run(copyFence(plan.backupId, disk.target), cancellationSignal(), async (signal) => {
        const heartbeat: CopyHeartbeat = { target: disk.target, copiedBytes: 0, totalBytes: 0, storedBytes: 0 };
        const pulse = setInterval(() => context.heartbeat(heartbeat), 1000);
        try {
          const store = openStore(plan.target.repository.location);
          await openRepository(store, plan.target.repository);
          const { upload, copied } = await openDraft(store, plan, disk);
          if (copied !== null) {
            await upload?.finish(copied.storedBytes);
            return { ...copied, attempts: context.info.attempt };
          }
          const { encryption } = settingsOf(plan.target.repository);
          const result = await copier.copyDisk({
            source: { ...disk, virtualSizeBytes: planned.virtualSizeBytes },
            ...(planned.parentFile === null ? {} : { backingFileName: nameOfKey(planned.parentFile) }),
            compression: plan.target.compression,
            ...(encryption === null ? {} : { recipient: encryption.recipient }),
            sink: upload.sink,
            journalPath: captures.journalPath(plan.backupId, disk.target),
            signal,
            pace: await paces.of(store, plan.target.repository.id),
            onPlanned: ({ expectedStoredBytes }) => requireSpace(store, plan, disk, expectedStoredBytes),
            onProgress: (progress) => {
              Object.assign(heartbeat, progress);
              claims.stored(plan.backupId, disk.target, progress.storedBytes);
            },
          });
          const done: CopiedDisk = {
            target: disk.target,
            file: disk.file,
            changedBytes: result.changedBytes,
            readBytes: result.readBytes,
            storedBytes: result.storedBytes,
            ...(result.plainBytes === undefined
              ? {}
              : { encryption: { format: 'age' as const, plainBytes: result.plainBytes } }),
            clusterBytes: result.clusterBytes,
            sums: await writeSums(store, disk.file, result.segments),
            attempts: context.info.attempt,
            resumedSegments: result.resumedSegments,
          };
          await captures.writeDraft(plan.backupId, disk.target, { key: disk.file, token: upload.token, copied: done });
          await upload.finish(result.storedBytes);
          return done;
        } catch (error) {
          signal.throwIfAborted();
          throw await explained(error, plan, disk);
        } finally {
          clearInterval(pulse);
          claims.release(plan.backupId, disk.target);
        }
      });
    },
  };

  /** The file to write to: a new one, or the one an earlier attempt began. `copied` when only its end is missing. */
  async function openDraft(
    store: BlobStore,
    plan: BackupPlan,
    { target, file }: DiskExport,
  ): Promise<{ upload: BlobUpload; copied: null } | { upload: BlobUpload | undefined; copied: CopiedDisk }> {
    if ((await captures.read(plan.backupId))?.begun == null) {
      throw new HoldfastError(
        'BackupJobLost',
        `disk ${target} of ${plan.target.vm.name}: host ${host} keeps no notes of it`,
      );
    }
    const draft: Draft | undefined = await captures.readDraft(plan.backupId, target);
    const upload = draft === undefined ? undefined : await store.resumeUpload(draft.key, draft.token);
    if (draft?.copied != null) return { upload, copied: draft.copied };
    if (upload !== undefined) return { upload, copied: null };
    const created = await store.createUpload(file, { expectedBytes: 0 }).catch(async (error: unknown) => {
      if (!(error instanceof BlobStoreError) || error.code !== 'exists') throw error;
      // An upload was begun by an attempt that was killed before it noted its token. A finished file is another backup's.
      await store.discardUploads(file);
      return await store.createUpload(file, { expectedBytes: 0 }).catch((failure: unknown) => {
        if (!(failure instanceof BlobStoreError) || failure.code !== 'exists') throw failure;
        throw new HoldfastError(
          'DestinationExists',
          `disk ${target} of ${plan.target.vm.name}: ${file} is in repository ${plan.target.repository.name} already and ` +
            'is not of this backup; it was left as it is, the next backup takes another name',
          { cause: failure },
        );
      });
    });
    await captures.writeDraft(plan.backupId, target, { key: file, token: created.token, copied: null });
    return { upload: created, copied: null };
  }

  async function requireSpace(
    store: BlobStore,
    plan: BackupPlan,
    disk: DiskExport,
    neededBytes: number,
  ): Promise<void> {
    const { vm, repository } = plan.target;
    const claimed = claims.claim(plan.backupId, disk.target, neededBytes);
    const freeBytes = await store.freeSpaceBytes();
    if (freeBytes === undefined || freeBytes >= claimed.neededBytes + SPACE_MARGIN_BYTES) return;
    const others = claimed.disks.filter((target) => target !== disk.target);
    throw new HoldfastError(
      'RepositoryFull',
      `${others.length === 0 ? `disk ${disk.target} of ${vm.name} needs` : `disks ${claimed.disks.join(', ')} of ${vm.name} together need`} ` +
        `up to ${claimed.neededBytes} bytes in repository ${repository.name} and ${SPACE_MARGIN_BYTES} to spare, ${freeBytes} are free; ` +
        (others.length === 0 ? 'nothing was copied' : 'what was copied is removed'),
    );
  }

  /** An NBD server that went away means a lost instant only if its job is gone; else a new attempt goes on. */
  async function explained(error: unknown, plan: BackupPlan, disk: DiskExport): Promise<unknown> {
    if (!(error instanceof CopierError) || error.code !== 'job-lost') {
      return unlessHostFull(error, host, plan.target.vm.name);
    }
    const { vm } = plan.target;
    const signal = AbortSignal.timeout(30_000);
    if (plan.target.strategy === 'snapshot') {
      await snapshots.serve(plan, signal); // its server was ended; what is frozen stays so
      return error;
    }
    if (plan.stopped) {
      const capture = await captures.read(plan.backupId);
      if (capture !== undefined) await stopped.requireUnchanged(capture);
      await stopped.serve(plan, signal); // its server was ended; the image is as it was
      return error;
    }
    const domain = await domainOf(libvirt, vm, host, { signal });
    const job = await runningBackupJob(libvirt, domain, state, { signal });
    if (job?.backupId === plan.backupId) return error;
    return new HoldfastError(
      'BackupJobLost',
      `disk ${disk.target} of ${vm.name}: the VM or its QEMU ended during the copy, and the frozen instant with it`,
      { cause: error },
    );
  }
};
