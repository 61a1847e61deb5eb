import { isLibvirtError, LIBVIRT_ERRORS } from '../../libvirt/errors.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import type { BlobStore } from '../../repository/blob-store.ts';
import { readManifest } from '../../repository/manifest.ts';
import { isKeyError } from '../../repository/repository-error.ts';
import { openRepositoryKeys } from '../../repository/repository-keys.ts';
import { unsealManifest } from '../../repository/sealed-manifest.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { BackupPlan, BegunBackup, DiskExport } from '../../schemas/plan.ts';
import { settingsOf } from '../../schemas/repository.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { runningBackupJob } from './backup-job.ts';
import type { Capture } from './capture-store.ts';
import { createSnapshotCapture } from './capture-snapshot.ts';
import { createStoppedCapture } from './capture-stopped.ts';
import { redefineCheckpoint, removeCheckpoint } from './checkpoints.ts';
import type { HostDependencies } from './dependencies.ts';
import { checkpointXml, domainBackupXml, exportBitmap } from './domain-backup-xml.ts';
import { readDomainFiles } from './domain-files.ts';
import { domainOf } from './domain.ts';
import { unlessHostFull } from './host-full.ts';
import { endOrphanedJob } from './orphaned-job.ts';
import { powerOf } from './power.ts';
import { quiesced } from './quiesce.ts';
import { thaw } from './thaw.ts';
import { unusedFiles } from './unused-files.ts';

export const createBeginBackup = (dependencies: HostDependencies) => {
  const stopped = createStoppedCapture(dependencies);
  const snapshots = createSnapshotCapture(dependencies);
  const { host, libvirt, state, captures, fence, openStore, daemonRoot, versions } = dependencies;

  return {
    /**
     * Freezes the VM's disks at one instant: a pull-mode backup job with a new checkpoint, the guest quiesced as asked.
     * Repeatable: a job of this backup that began is taken up; one that may have begun is undone and begun anew.
     * @throws CheckpointLost, DomainBusy, HostFull, QuiesceFailed, BackupJobLost, VmStateChanged, VmNotFound
     */
    async beginBackup(plan: BackupPlan): Promise<BegunBackup> {
      return await withHeartbeat('freezing a point in time', () =>
        fence.run(`begin ${plan.backupId}`, cancellationSignal(), async (signal) => {
          const { vm } = plan.target;
          const domain = await domainOf(libvirt, vm, host, { signal });
          if (plan.target.strategy === 'snapshot') return await snapshots.begin(domain, plan, signal);
          const { state: power } = await libvirt.state(domain, { signal });
          if ((powerOf(power) === 'shutoff') !== plan.stopped) {
            throw new HoldfastError('VmStateChanged', `VM ${vm.name} is ${power} now; planning again`);
          }
          if (plan.stopped) {
            for (const backupId of plan.staleCheckpoints) await removeCheckpoint(libvirt, domain, backupId, { signal });
            return await stopped.begin(domain, plan, signal);
          }
          const before = await captures.read(plan.backupId);
          const job = await runningBackupJob(libvirt, domain, state, { signal });
          if (before?.begun != null) {
            if (job?.backupId === plan.backupId) return before.begun;
            throw new HoldfastError(
              'BackupJobLost',
              `VM ${vm.name}: the backup job ended before its disks were copied`,
            );
          }
          if (job !== undefined) await endOrphanedJob(dependencies, domain, { signal });
          if (before !== undefined) await undoUnfinishedBegin(domain, plan, signal);
          return await begin(domain, plan, signal).catch((error: unknown) => {
            throw unlessHostFull(error, host, vm.name);
          });
        }),
      );
    },
  };

  async function undoUnfinishedBegin(domain: Domain, plan: BackupPlan, signal: AbortSignal): Promise<void> {
    if (plan.target.quiesce !== 'none') await thaw(libvirt, domain, 60_000);
    await removeCheckpoint(libvirt, domain, plan.backupId, { signal });
    await state.remove(plan.backupId);
  }

  async function begin(domain: Domain, plan: BackupPlan, signal: AbortSignal): Promise<BegunBackup> {
    const { vm, quiesce } = plan.target;
    for (const backupId of plan.staleCheckpoints) await removeCheckpoint(libvirt, domain, backupId, { signal });
    if (plan.disks.some(({ type }) => type === 'incremental')) await takeUpParentCheckpoint(domain, plan, signal);

    const liveXml = await libvirt.domainXml(domain, { secure: true }, { signal });
    const definition = parseDomainXml(liveXml);
    const targets = definition.disks.map(({ target }) => target);
    const capture: Capture = {
      plan,
      phase: 'beginning',
      begun: null,
      domainXml: {
        inactive: await libvirt.domainXml(domain, { inactive: true, secure: true }, { signal }),
        live: liveXml,
      },
      checkpointXml: null,
      files: await readDomainFiles(definition, await daemonRoot()),
      versions: await versions(),
      startedMs: Date.now(),
    };
    await state.prepare(plan.backupId, plan.disks.find(({ sourcePath }) => sourcePath !== null)?.sourcePath ?? null);
    await captures.write(plan.backupId, capture); // before the act: a killed worker's successor knows what to undo

    const socketPath = state.socketPath(plan.backupId);
    const job = domainBackupXml(plan, targets, {
      socketPath,
      scratchFile: (target) => state.scratchFile(plan.backupId, target),
    });
    const checkpoint = checkpointXml(plan, targets);
    const frozen = await quiesced(dependencies, domain, quiesce, { signal }, async () => {
      const instant = new Date();
      // Not cancellable: an answer that nobody waits for would leave a job that nobody knows.
      await libvirt.backupBegin(domain, job, checkpoint).catch((error: unknown) => {
        throw beginError(error, vm.name);
      });
      return instant;
    });
    const instant = frozen.result.toISOString();
    const files = await unusedFiles(openStore, plan, instant);
    const exports: DiskExport[] = plan.disks.map(({ target, type }, index) => ({
      target,
      socketPath,
      exportName: target,
      mapContext: type === 'incremental' ? `qemu:dirty-bitmap:${exportBitmap(target)}` : 'base:allocation',
      file: files[index] ?? '',
    }));
    const begun: BegunBackup = {
      instant,
      consistency: frozen.freezeMs === null ? 'crash' : 'application',
      freezeMs: frozen.freezeMs,
      notFrozen: frozen.notFrozen,
      thawPending: frozen.thawPending,
      exports,
    };
    await captures.write(plan.backupId, {
      ...capture,
      phase: 'begun',
      begun,
      checkpointXml:
        checkpoint === undefined
          ? null
          : await libvirt.checkpointXml(domain, checkpointName(plan.backupId), { secure: true }, { signal }),
    });
    return begun;
  }

  /** The record of the parent's checkpoint does not follow a VM that was migrated or defined anew; its bitmap does. */
  async function takeUpParentCheckpoint(domain: Domain, plan: BackupPlan, signal: AbortSignal): Promise<void> {
    const { vm, repository } = plan.target;
    if (plan.parentId === null) return;
    if (await libvirt.checkpointLookup(domain, checkpointName(plan.parentId), { signal })) return;
    const store = openStore(repository.location);
    const stored = await readManifest(store, vm.uuid, plan.parentId);
    if (stored.checkpointXml === null) {
      throw new HoldfastError('CheckpointLost', `VM ${vm.name}: its last backup kept no checkpoint; copying in full`);
    }
    const isHidden = settingsOf(repository).encryption?.hideNames === true;
    const parent = isHidden ? await unsealed(store, stored, plan) : stored;
    await redefineCheckpoint(libvirt, domain, parent.checkpointXml ?? '', { signal });
  }
};

/** Where names are hidden, the record of a checkpoint is too: without an identity on this host it cannot be taken up. */
async function unsealed(store: BlobStore, stored: Manifest, { target }: BackupPlan): Promise<Manifest> {
  try {
    return await unsealManifest(stored, await openRepositoryKeys(store, target.repository));
  } catch (error) {
    if (!isKeyError(error)) throw error;
    throw new HoldfastError(
      'CheckpointLost',
      `VM ${target.vm.name}: its checkpoint is kept encrypted, and this host cannot open it (${error.message}); copying in full`,
      { cause: error },
    );
  }
}

function beginError(error: unknown, vmName: string): unknown {
  if (isLibvirtError(error, LIBVIRT_ERRORS.CHECKPOINT_INCONSISTENT, LIBVIRT_ERRORS.NO_DOMAIN_CHECKPOINT)) {
    return new HoldfastError('CheckpointLost', `VM ${vmName}: ${error.message}; copying in full`, { cause: error });
  }
  if (isLibvirtError(error, LIBVIRT_ERRORS.OPERATION_TIMEOUT, LIBVIRT_ERRORS.RESOURCE_BUSY)) {
    return new HoldfastError('DomainBusy', `VM ${vmName} is busy with another job: ${error.message}`, { cause: error });
  }
  return error;
}
