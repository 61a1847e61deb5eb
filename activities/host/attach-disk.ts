import { chmod, chown, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { diskOnFile, newDiskXml } from '../../libvirt/disk-xml.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { LIBVIRT_ERRORS, LibvirtError } from '../../libvirt/errors.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import type { RestoredVm } from '../../schemas/backup.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DiskRestorePlan, PreparedDisk } from '../../schemas/restore-plan.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { powerOf } from './power.ts';
import { fileId, publishFile, removeFile } from './publish-file.ts';
import { restoreFence } from './restore-disk.ts';
import type { RestoreNotes } from './restore-notes.ts';
import { statIfThere } from './stat-if-there.ts';

/** How long a guest may take to let a disk go. */
const DETACH_TIMEOUT_MS = 60_000;
/** The VM is busy with something else at the moment: to be tried again. */
const BUSY: readonly number[] = [
  LIBVIRT_ERRORS.OPERATION_TIMEOUT,
  LIBVIRT_ERRORS.RESOURCE_BUSY,
  LIBVIRT_ERRORS.AGENT_UNRESPONSIVE,
];

export const createAttachDisk = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { host, libvirt, restores, fence } = dependencies;

  return {
    /**
     * Gives the written disk its name and adds it to the VM: to its definition, and to the machine if it runs. Repeatable.
     * @throws DiskNotAttachable, DestinationExists, VmNotFound
     */
    async attachDisk(plan: DiskRestorePlan, prepared: PreparedDisk): Promise<RestoredVm> {
      return await withHeartbeat('attaching the disk', async () => {
        const signal = cancellationSignal();
        const { disk, target } = prepared;
        const noted = await restores.readDisk(plan.restoreId);
        if (noted?.phase !== 'attached') {
          const id = noted?.fileId ?? (await fileId(disk.besidePath)) ?? null;
          await restores.writeDisk(plan.restoreId, { plan, prepared, phase: 'attaching', fileId: id });
          const domain = await domainOf(libvirt, plan.toVm, host, { signal });
          await likeOtherDisks(domain, disk.besidePath, signal);
          await publishFile(disk.besidePath, disk.path);
          await attach(domain, prepared, signal);
          await restores.writeDisk(plan.restoreId, { plan, prepared, phase: 'attached', fileId: id });
        }
        return { vm: plan.toVm, disks: [{ target, path: disk.path, verified: true }] };
      });
    },

    /** Forgets a restore of a disk that is done. Repeatable. */
    async finishDisk(plan: DiskRestorePlan): Promise<void> {
      await restores.remove(plan.restoreId);
    },

    /**
     * Undoes the restore of a disk that did not come about: the disk is taken from the VM, its file removed. One that was
     * attached stays, for the VM may use it. Repeatable.
     */
    async undoDisk(plan: DiskRestorePlan): Promise<void> {
      await withHeartbeat('undoing the restore', async () => {
        const signal = cancellationSignal();
        await fence.stop((key) => key.startsWith(restoreFence(plan.restoreId, '')), 'undone');
        const noted = await restores.readDisk(plan.restoreId);
        if (noted === undefined) return;
        const { path, besidePath } = noted.prepared.disk;
        if (noted.phase === 'attaching') {
          const domain = await libvirt.lookupByUuid(plan.toVm.uuid, { signal });
          const isOurs = noted.fileId !== null && (await fileId(path)) === noted.fileId;
          if (domain !== undefined && isOurs) await detach(domain, path, signal);
          await removeFile(path, noted.fileId ?? undefined);
        }
        await rm(besidePath, { force: true });
        await restores.remove(plan.restoreId);
      });
    },
  };

  /** Where libvirt does not give files to QEMU's user, the owner must be that of the VM's other disks. */
  async function likeOtherDisks(domain: Domain, path: string, signal: AbortSignal): Promise<void> {
    if ((await fileId(path)) === undefined) return;
    const { disks } = parseDomainXml(await libvirt.domainXml(domain, {}, { signal }));
    const other = disks.find(
      (disk) => disk.device === 'disk' && disk.sourceType === 'file' && disk.sourcePath !== null,
    );
    const info = other?.sourcePath == null ? undefined : await statIfThere(other.sourcePath);
    if (info !== undefined) await chown(path, info.uid, info.gid);
    await chmod(path, (info?.mode ?? 0o600) & 0o777);
  }

  async function attach(domain: Domain, prepared: PreparedDisk, signal: AbortSignal): Promise<void> {
    const { disk, target, bus, serial, wwn, driver } = prepared;
    const xml = newDiskXml({ path: disk.path, format: disk.format, target, bus, serial, wwn, driver });
    const missing = await impact(domain, (domainXml) => diskOnFile(domainXml, disk.path) === undefined, signal);
    if (!missing.live && !missing.config) return;
    // Not cancellable: an answer that nobody waits for would leave a disk that nobody knows.
    await libvirt.attachDevice(domain, xml, missing).catch((error: unknown) => {
      if (!(error instanceof LibvirtError) || BUSY.includes(error.code)) throw error;
      throw new HoldfastError(
        'DiskNotAttachable',
        `libvirt on ${host} does not add disk ${target} (${bus}) to VM ${domain.name}: ${error.message}`,
        { cause: error },
      );
    });
  }

  async function detach(domain: Domain, path: string, signal: AbortSignal): Promise<void> {
    const deadlineMs = Date.now() + DETACH_TIMEOUT_MS;
    const asked = new Set<'live' | 'config'>();
    for (;;) {
      const present = await impact(domain, (domainXml) => diskOnFile(domainXml, path) !== undefined, signal);
      if (!present.live && !present.config) return;
      for (const where of ['config', 'live'] as const) {
        if (!present[where] || asked.has(where)) continue;
        const found = diskOnFile(await libvirt.domainXml(domain, { inactive: where === 'config' }, { signal }), path);
        if (found !== undefined) await libvirt.detachDevice(domain, found.xml, { [where]: true }, { signal });
        asked.add(where);
      }
      if (Date.now() > deadlineMs) {
        throw new HoldfastError('DomainBusy', `the guest of VM ${domain.name} does not let go of the disk on ${path}`);
      }
      await sleep(250, undefined, { signal }); // the guest lets go of it when it likes
    }
  }

  /** Where something is so: in the machine as it runs, in its definition. */
  async function impact(
    domain: Domain,
    isSo: (domainXml: string) => boolean,
    signal: AbortSignal,
  ): Promise<{ live: boolean; config: boolean }> {
    const isRunning = powerOf((await libvirt.state(domain, { signal })).state) !== 'shutoff';
    return {
      live: isRunning && isSo(await libvirt.domainXml(domain, {}, { signal })),
      config:
        (await libvirt.isPersistent(domain, { signal })) &&
        isSo(await libvirt.domainXml(domain, { inactive: true }, { signal })),
    };
  }
};
