import { mkdir } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { driverOf, freePciSlots } from '../../libvirt/disk-xml.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DiskRestorePlan, DiskToRestore, PreparedDisk } from '../../schemas/restore-plan.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { attachedFileName, busFor, freeTarget, identityFor, type AttachableVm } from './attach-targets.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { powerOf } from './power.ts';
import { fileId } from './publish-file.ts';
import { folderOf, unusedPath } from './new-disk-place.ts';
import { diskOfFile, filesOfDisk, requireFiles } from './restore-chain.ts';
import type { RestoreNotes } from './restore-notes.ts';
import { openRestoreSource } from './restore-source.ts';
import { requireSpace } from './restore-space.ts';
import { formatOf, NOT_FOR_DISKS } from './restore-targets.ts';

export const createPrepareDisk = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { host, libvirt, restores } = dependencies;

  async function look(plan: DiskRestorePlan): Promise<PreparedDisk> {
    const signal = cancellationSignal();
    const { store, manifest, chain } = await openRestoreSource(dependencies, plan);
    const stored = manifest.disks.find(({ target }) => target === plan.disk);
    if (stored === undefined) {
      const there = manifest.disks.map(({ target }) => target).join(', ');
      throw new HoldfastError(
        'DiskMismatch',
        `backup ${plan.backupId} has no disk ${plan.disk}; it has ${there === '' ? 'none' : there}`,
      );
    }
    const domain = await domainOf(libvirt, plan.toVm, host, { signal });
    const isRunning = powerOf((await libvirt.state(domain, { signal })).state) !== 'shutoff';
    const vm: AttachableVm = {
      inactiveXml: await libvirt.domainXml(domain, { inactive: true }, { signal }),
      liveXml: isRunning ? await libvirt.domainXml(domain, {}, { signal }) : null,
    };
    const definitions = [vm.inactiveXml, ...(vm.liveXml === null ? [] : [vm.liveXml])].map(parseDomainXml);
    const original = parseDomainXml(manifest.domainXml.inactive).disks.find(({ target }) => target === plan.disk);
    const bus = busFor(vm, original?.bus ?? null);
    if (vm.liveXml !== null && bus === 'virtio' && freePciSlots(vm.liveXml) === 0) {
      throw new HoldfastError(
        'DiskNotAttachable',
        `VM ${domain.name} has no free PCI slot for a further disk while it runs; stop it first`,
      );
    }
    const target = freeTarget(
      domain.name,
      definitions.flatMap(({ disks }) => disks),
      { bus, wanted: plan.target ?? original?.target ?? null, isAsked: plan.target !== null },
    );
    const format = formatOf(stored.sourceFormat);
    const path =
      plan.path ??
      (await unusedPath(folderOf(definitions), attachedFileName(plan.vm.name, plan.disk, plan.backupId, format)));
    await requireUnused(path);
    const disk: DiskToRestore = {
      target: plan.disk,
      chain: filesOfDisk(chain, plan.backupId, plan.disk),
      virtualSizeBytes: stored.virtualSizeBytes,
      path,
      besidePath: `${path}.holdfast-${plan.restoreId}`,
      formerPath: `${path}.former-${plan.restoreId}`,
      format,
      isNew: true,
    };
    await requireFiles(
      store,
      disk.chain.map((file) => diskOfFile(chain, file)),
    );
    await requireSpace([disk], chain);
    return {
      disk,
      target,
      bus,
      ...identityFor(definitions, { serial: stored.serial, wwn: original?.wwn ?? null }, plan),
      driver: driverOf(manifest.domainXml.inactive, plan.disk),
    };
  }

  return {
    /** What restoring the disk would do. Changes nothing. @throws as prepareDisk */
    async previewDisk(plan: DiskRestorePlan): Promise<PreparedDisk> {
      return await withHeartbeat('checking the restore', () => look(plan));
    },

    /**
     * Checks the backup's files and finds a place for the disk: a file, and a target on the VM.
     * @throws BackupFileMissing, IntegrityMismatch, RepositoryNotOnHost, VmNotFound, DiskMismatch, DiskNotAttachable,
     * DestinationExists, DestinationFull
     */
    async prepareDisk(plan: DiskRestorePlan): Promise<PreparedDisk> {
      return await withHeartbeat('checking the restore', async () => {
        const noted = await restores.readDisk(plan.restoreId);
        if (noted !== undefined) return noted.prepared;
        const prepared = await look(plan);
        await mkdir(dirname(prepared.disk.path), { recursive: true, mode: 0o711 });
        await restores.writeDisk(plan.restoreId, { plan, prepared, phase: 'writing', fileId: null });
        return prepared;
      });
    },
  };
};

async function requireUnused(path: string): Promise<void> {
  if (NOT_FOR_DISKS.test(path) || basename(path) === '') {
    throw new HoldfastError('InvalidRequest', `path: ${path} is no place for a disk`);
  }
  if ((await fileId(path)) === undefined) return;
  throw new HoldfastError('DestinationExists', `${path} exists; name another path, or move it away`);
}
