import { createManifest, readManifest } from '../../repository/manifest.ts';
import { openRepository } from '../../repository/identity.ts';
import { sealManifest } from '../../repository/sealed-manifest.ts';
import { BlobStoreError, type BlobStore } from '../../repository/blob-store.ts';
import type { CompletedBackup } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { MANIFEST_VERSION, type Manifest, type ManifestDisk } from '../../schemas/manifest.ts';
import type { BackupPlan, BegunBackup, CopiedDisk, PlannedDisk } from '../../schemas/plan.ts';
import { settingsOf } from '../../schemas/repository.ts';
import { withHeartbeat } from '../cancellation.ts';
import { runOfActivity } from '../run-of-activity.ts';
import type { Capture } from './capture-store.ts';
import type { HostDependencies } from './dependencies.ts';
import { lockBackup } from './lock-backup.ts';

export const createPublishBackup = ({ openStore, captures, host }: HostDependencies) => {
  return {
    /**
     * Writes the manifest: from then on the backup exists; and locks what it needs, where the repository promises that.
     * Repeatable: a manifest that was written, though its answer was lost, is taken as it is.
     */
    async publishBackup(plan: BackupPlan, begun: BegunBackup, copies: CopiedDisk[]): Promise<CompletedBackup> {
      return await withHeartbeat('writing the manifest', async () => {
        const { vm, repository } = plan.target;
        const store = openStore(repository.location);
        await openRepository(store, repository);
        const completed =
          (await readCompleted(store, vm.uuid, plan.backupId, plan.disks)) ??
          (await publish(store, plan, { begun, copies }));
        await lockBackup(store, repository, { vmUuid: vm.uuid, id: completed.id, instant: completed.instant });
        return completed;
      });
    },

    /** Drops the host's notes of a backup that the catalog knows to be stored. */
    async forgetBackup(backupId: string): Promise<void> {
      await captures.remove(backupId);
    },
  };

  async function publish(
    store: BlobStore,
    plan: BackupPlan,
    { begun, copies }: { begun: BegunBackup; copies: CopiedDisk[] },
  ): Promise<CompletedBackup> {
    const capture = await captures.read(plan.backupId);
    if (capture === undefined) {
      throw new HoldfastError('BackupJobLost', `host ${host} keeps no notes of backup ${plan.backupId}`);
    }
    await captures.write(plan.backupId, { ...capture, phase: 'publishing' });
    const manifest = manifestOf(capture, begun, copies, runOfActivity());
    try {
      const { encryption } = settingsOf(plan.target.repository);
      const plain = encryption && manifest.disks.find((disk) => disk.encryption === undefined);
      if (plain) throw new HoldfastError('EncryptionMismatch', `${plain.file} was not encrypted; it is not published`);
      await createManifest(store, encryption === null ? manifest : await sealManifest(manifest, encryption));
    } catch (error) {
      // An earlier attempt that still ran was first; its manifest tells of the same files.
      const first = isCode(error, 'exists')
        ? await readCompleted(store, plan.target.vm.uuid, plan.backupId, plan.disks)
        : undefined;
      if (first === undefined) throw error;
      return first;
    }
    return concluded(manifest);
  }
};

/** Whether the manifest of a backup is written, though its answer may have been lost. */
export async function isPublished(
  openStore: HostDependencies['openStore'],
  { backupId, target: { vm, repository } }: BackupPlan,
): Promise<boolean> {
  const store = openStore(repository.location);
  await openRepository(store, repository);
  return (await readCompleted(store, vm.uuid, backupId)) !== undefined;
}

/**
 * What the catalog needs to know of a backup whose manifest is written; undefined when it is not.
 * @param planned where its disks lay, which an encrypted repository keeps to those who have an identity
 */
export async function readCompleted(
  store: BlobStore,
  vmUuid: string,
  backupId: string,
  planned: readonly PlannedDisk[] = [],
): Promise<CompletedBackup | undefined> {
  try {
    const completed = concluded(await readManifest(store, vmUuid, backupId));
    const disks = completed.disks.map((disk) => {
      const plan = planned.find(({ target }) => target === disk.target);
      return plan === undefined ? disk : { ...disk, ...placeOf(plan) };
    });
    return { ...completed, disks };
  } catch (error) {
    if (isCode(error, 'not-found')) return undefined;
    throw error;
  }
}

const isCode = (error: unknown, code: BlobStoreError['code']): boolean =>
  error instanceof BlobStoreError && error.code === code;

const concluded = (manifest: Manifest): CompletedBackup => ({
  id: manifest.id,
  consistency: manifest.consistency,
  instant: manifest.instant,
  durationMs: manifest.durationMs,
  disks: manifest.disks,
  checkpointXml: manifest.checkpointXml === null ? null : 'kept in the manifest',
});

function manifestOf(
  capture: Capture,
  begun: BegunBackup,
  copies: CopiedDisk[],
  run: { workflowId: string; runId: string },
): Manifest {
  const { plan, startedMs } = capture;
  const { vm, host, offering, tenant, strategy, quiesce } = plan.target;
  const endedMs = Date.now();
  return {
    version: MANIFEST_VERSION,
    id: plan.backupId,
    vm,
    type: plan.type,
    parentId: plan.parentId,
    chainId: plan.chainId,
    position: plan.position,
    isolated: plan.isolated,
    endOfChain: plan.endOfChain,
    instant: begun.instant,
    consistency: begun.consistency,
    freezeMs: begun.freezeMs,
    strategy,
    host,
    source: { platform: 'libvirt', metadata: begun.notFrozen === null ? {} : { notFrozen: begun.notFrozen } },
    domainXml: capture.domainXml,
    checkpointXml: capture.checkpointXml,
    files: capture.files,
    passedOver: plan.passedOver ?? [],
    skippedDisks: plan.skippedDisks,
    disks: plan.disks.map((disk) => diskOf(disk, copies)),
    compression: plan.target.compression,
    validation: 'NotValidated',
    requestedBy: plan.requestedBy,
    run: {
      ...run,
      offering,
      tenant,
      quiesce,
      beganAt: new Date(startedMs).toISOString(),
      endedAt: new Date(endedMs).toISOString(),
    },
    attempts: Object.fromEntries(copies.map(({ target, attempts }) => [target, attempts])),
    resumedSegments: Object.fromEntries(copies.map(({ target, resumedSegments = 0 }) => [target, resumedSegments])),
    durationMs: Math.max(0, endedMs - startedMs), // the clock may have been set back
    versions: capture.versions,
  };
}

const placeOf = ({
  serial,
  sourcePath,
  sourceMark,
}: PlannedDisk): Pick<ManifestDisk, 'serial' | 'sourcePath' | 'sourceMark'> => ({
  serial,
  sourcePath,
  ...(sourceMark === undefined ? {} : { sourceMark }),
});

function diskOf(disk: PlannedDisk, copies: CopiedDisk[]): ManifestDisk {
  const copy = copies.find(({ target }) => target === disk.target);
  if (copy === undefined) throw new HoldfastError('InvalidRequest', `disk ${disk.target} was not copied`);
  return {
    target: disk.target,
    number: disk.number,
    ...placeOf(disk),
    sourceFormat: disk.sourceFormat,
    virtualSizeBytes: disk.virtualSizeBytes,
    type: disk.type,
    fullReason: disk.fullReason,
    file: copy.file,
    backingFile: disk.parentFile,
    storedBytes: copy.storedBytes,
    ...(copy.encryption === undefined ? {} : { encryption: copy.encryption }),
    changedBytes: copy.changedBytes,
    readBytes: copy.readBytes,
    clusterBytes: copy.clusterBytes,
    sums: copy.sums,
  };
}
