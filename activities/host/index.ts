import { createAttachDisk } from './attach-disk.ts';
import { createBeginBackup } from './begin-backup.ts';
import { createBootBackup, createValidationSteps } from './boot-backup.ts';
import { createCheckRestoreSource } from './check-restore-source.ts';
import { createConsolidate, createVerifyChain } from './consolidate.ts';
import { createCopyBackup } from './copy-backup.ts';
import { createCopyDisk } from './copy-disk.ts';
import { createDeleteFiles } from './delete-files.ts';
import type { HostDependencies } from './dependencies.ts';
import { createEndBackup } from './end-backup.ts';
import { createHashBackup } from './hash-backup.ts';
import { createInspection } from './inspect-vm.ts';
import { createKeepValidation } from './keep-validation.ts';
import { createOwnCheckpoints } from './own-checkpoints.ts';
import { createPrepareDisk } from './prepare-disk.ts';
import { createLockStored } from './lock-stored.ts';
import { createMergeDeltas } from './merge-deltas.ts';
import { createPrepareRestore } from './prepare-restore.ts';
import { createProbeVm } from './probe-vm.ts';
import { createPublishBackup } from './publish-backup.ts';
import { createQuickRestore } from './quick-restore.ts';
import { createReclaimLeftovers } from './reclaim-leftovers.ts';
import { createReadStored } from './read-stored.ts';
import { createRestoreDisk } from './restore-disk.ts';
import type { RestoreNotes } from './restore-notes.ts';
import { createRewriteBackup } from './rewrite-backup.ts';
import { createStrayFiles } from './stray-files.ts';
import { createVerifyStored } from './verify-stored.ts';
import { createSwapDisks } from './swap-disks.ts';
import { createSwapRewritten } from './swap-rewritten.ts';
import { createUndoCopy } from './undo-copy.ts';

/** Quick steps and undo, on the queue `host:<h>`. */
export const createHostActivities = (dependencies: HostDependencies & { restores: RestoreNotes }) => ({
  ...createInspection(dependencies),
  ...createProbeVm(dependencies),
  ...createBeginBackup(dependencies),
  ...createEndBackup(dependencies),
  ...createMergeDeltas(dependencies),
  ...createPublishBackup(dependencies),
  ...createPrepareRestore(dependencies),
  ...createCheckRestoreSource(dependencies),
  ...createSwapDisks(dependencies),
  ...createPrepareDisk(dependencies),
  ...createAttachDisk(dependencies),
  ...createQuickRestore(dependencies),
  ...createConsolidate(dependencies),
  ...createReclaimLeftovers(dependencies),
  ...createOwnCheckpoints(dependencies),
  ...createStrayFiles(dependencies),
  ...createLockStored(dependencies),
  ...createDeleteFiles(dependencies),
  ...createKeepValidation(dependencies),
  ...createValidationSteps(dependencies),
  ...createSwapRewritten(dependencies),
  ...createReadStored(dependencies),
  ...createUndoCopy(dependencies),
});
export type HostActivities = ReturnType<typeof createHostActivities>;

/** Copies, on the queue `host:<h>:data`. */
export const createHostDataActivities = (dependencies: HostDependencies) => ({
  ...createCopyDisk(dependencies),
  ...createRestoreDisk(dependencies),
});
export type HostDataActivities = ReturnType<typeof createHostDataActivities>;

/** Work on stored backups, on the queue `host:<h>:jobs`. */
export const createHostJobActivities = (dependencies: HostDependencies) => ({
  ...createHashBackup(dependencies),
  ...createVerifyStored(dependencies),
  ...createBootBackup(dependencies),
  ...createVerifyChain(dependencies),
  ...createRewriteBackup(dependencies),
  ...createCopyBackup(dependencies),
});
export type HostJobActivities = ReturnType<typeof createHostJobActivities>;
