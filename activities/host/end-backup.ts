import type { BlobStore } from '../../repository/blob-store.ts';
import { BlobStoreError } from '../../repository/blob-store.ts';
import { openRepository } from '../../repository/identity.ts';
import { sumsKey } from '../../repository/layout.ts';
import { RepositoryError } from '../../repository/repository-error.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { CompletedBackup } from '../../schemas/catalog.ts';
import type { BackupPlan, BackupTarget } from '../../schemas/plan.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { abortOwnJob } from './backup-job.ts';
import type { Capture } from './capture-store.ts';
import { createStoppedCapture } from './capture-stopped.ts';
import { removeCheckpoint } from './checkpoints.ts';
import { copyFence } from './copy-disk.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { readCompleted } from './publish-backup.ts';
import { thaw } from './thaw.ts';

/** An agent that hung in its freeze is given this long to confirm its thaw before the step is tried again. */
const THAW_PATIENCE_MS = 60_000;

export interface AbortedBackup {
  /** The manifest was written before: nothing is undone, the backup only has to be listed. */
  published: { plan: BackupPlan; completed: CompletedBackup } | null;
  /** Why files of it are still in the repository. */
  leftInRepository: string | null;
}

export const createEndBackup = (dependencies: HostDependencies) => {
  const stopped = createStoppedCapture(dependencies);
  const { host, libvirt, state, captures, fence, openStore } = dependencies;

  async function endJob(target: BackupTarget, backupId: string, signal: AbortSignal): Promise<void> {
    const domain = await libvirt.lookupByUuid(target.vm.uuid, { signal });
    if (domain !== undefined) await abortOwnJob(libvirt, domain, state, backupId, { signal });
    await stopped.endServers(backupId);
    await state.remove(backupId);
  }

  return {
    /**
     * The normal end of a pull-mode job: QEMU closes its NBD server and drops the scratch files; or of the servers of a
     * stopped VM's images. Repeatable.
     * @throws BackupJobLost when a stopped VM was started, or its image changed, while it was read
     */
    async endBackup(plan: BackupPlan): Promise<void> {
      const { backupId, target } = plan;
      await withHeartbeat('ending the backup job', async () => {
        const signal = cancellationSignal();
        if (plan.stopped && target.strategy !== 'snapshot')
          await stopped.end(await domainOf(libvirt, target.vm, host, { signal }), plan, signal);
        await endJob(target, backupId, signal);
      });
    },

    /** Makes sure of the thaw of a guest whose agent hung in its freeze; tried again until the guest confirms. */
    async ensureThawed({ vm }: BackupTarget): Promise<void> {
      await withHeartbeat('waiting for the guest to confirm its thaw', async () => {
        const domain = await libvirt.lookupByUuid(vm.uuid, { signal: cancellationSignal() });
        if (domain === undefined || (await thaw(libvirt, domain, THAW_PATIENCE_MS))) return;
        throw new HoldfastError(
          'QuiesceFailed',
          `VM ${vm.name}: its guest agent does not confirm that the guest is thawed`,
        );
      });
    },

    /**
     * Undoes a backup at whatever step it stopped: copies, job, freeze, checkpoint, scratch files, socket, then its files
     * in the repository. A published backup is left alone and returned, to be listed. Files that cannot be removed now
     * are noted and go later, so that a repository that is gone does not hold up the VM.
     */
    async abortBackup(backupId: string, target: BackupTarget): Promise<AbortedBackup> {
      return await withHeartbeat('undoing the backup', async () => {
        const signal = cancellationSignal();
        await fence.stop((key) => key === `begin ${backupId}` || key.startsWith(copyFence(backupId, '')), 'undone');
        const capture = await captures.read(backupId);
        await endJob(target, backupId, signal);
        const published = capture?.phase === 'publishing' ? await publishedAs(capture) : null;
        const domain = await libvirt.lookupByUuid(target.vm.uuid, { signal });
        if (domain !== undefined) {
          const mayBeFrozen = capture?.phase === 'beginning' || capture?.begun?.thawPending === true;
          if (mayBeFrozen && target.quiesce !== 'none' && !(await thaw(libvirt, domain, THAW_PATIENCE_MS))) {
            throw new HoldfastError(
              'QuiesceFailed',
              `VM ${target.vm.name}: its guest does not confirm that it is thawed`,
            );
          }
          if (published === null) await removeCheckpoint(libvirt, domain, backupId, { signal });
        }
        if (published !== null) return { published, leftInRepository: null }; // its notes go when it is listed
        const leftInRepository = capture === undefined ? null : await discardDrafts(capture);
        if (leftInRepository === null) await captures.remove(backupId);
        return { published: null, leftInRepository };
      });
    },

    /** Removes checkpoints that no coming backup needs. */
    async removeCheckpoints(target: BackupTarget, backupIds: string[]): Promise<void> {
      await withHeartbeat('removing checkpoints', async () => {
        const signal = cancellationSignal();
        const domain = await domainOf(libvirt, target.vm, host, { signal });
        for (const backupId of backupIds) await removeCheckpoint(libvirt, domain, backupId, { signal });
      });
    },
  };

  /** A manifest that was written though its answer was lost: the backup exists. */
  async function publishedAs({ plan }: Capture): Promise<AbortedBackup['published']> {
    const { vm, repository } = plan.target;
    const store = openStore(repository.location);
    await openRepository(store, repository);
    const completed = await readCompleted(store, vm.uuid, plan.backupId, plan.disks);
    return completed === undefined ? null : { plan, completed };
  }

  /** Why files stay; null when all are gone. */
  async function discardDrafts(capture: Capture): Promise<string | null> {
    const { backupId, target } = capture.plan;
    try {
      const store = openStore(target.repository.location);
      await openRepository(store, target.repository);
      for (const disk of capture.begun?.exports ?? []) await discardDraft(store, backupId, disk);
      return null;
    } catch (error) {
      if (!(error instanceof BlobStoreError) && !(error instanceof RepositoryError)) throw error;
      await captures.write(backupId, { ...capture, phase: 'aborted' });
      return `files of backup ${backupId} stay in repository ${target.repository.name} for now: ${error.message}`;
    }
  }

  async function discardDraft(
    store: BlobStore,
    backupId: string,
    disk: { target: string; file: string },
  ): Promise<void> {
    const draft = await captures.readDraft(backupId, disk.target);
    if (draft === undefined) {
      // Begun and not yet noted, or never begun; a finished file of that name is another backup's, and so are its sums.
      await store.discardUploads(disk.file);
      return;
    }
    const upload = await store.resumeUpload(draft.key, draft.token);
    if (upload !== undefined) await upload.abort();
    else if (draft.copied !== null) await store.deleteBlob(disk.file);
    await store.deleteBlob(sumsKey(disk.file));
  }
};
