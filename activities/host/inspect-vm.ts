import { parseDomainXml, type DomainDisk } from '../../libvirt/domain-xml.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { checkChainFiles } from '../../repository/check-chain.ts';
import { openRepository } from '../../repository/identity.ts';
import { vmName, uuid } from '../../schemas/names.ts';
import type { VmSighting } from '../../schemas/catalog.ts';
import type { BackupTarget, DiskFacts, VmFacts } from '../../schemas/plan.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { runningBitmaps } from './bitmaps.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { imageChains } from './image-chain.ts';
import { endOrphanedJob } from './orphaned-job.ts';
import { imageMark } from './image-mark.ts';
import { powerOf } from './power.ts';
import { backupOfThrowAway } from './validation-notes.ts';
import { snapshotsWithMemory } from './snapshots.ts';
import { stoppedBitmaps } from './stopped-images.ts';

export const createInspection = ({ host, slots, libvirt, state, openStore, versions }: HostDependencies) => {
  async function sighting(domain: Domain, signal: AbortSignal): Promise<VmSighting> {
    const power = powerOf((await libvirt.state(domain, { signal })).state);
    const { disks } = parseDomainXml(await libvirt.domainXml(domain, {}, { signal }));
    return {
      uuid: domain.uuid,
      name: domain.name,
      host,
      power,
      disks: disks
        .filter(({ device }) => device === 'disk')
        .map(({ target, format, sourcePath }) => ({ target, format, path: sourcePath, sizeBytes: null })),
    };
  }

  return {
    /** The VM of that name or UUID, when this host has it. */
    async findVm(vm: string): Promise<VmSighting[]> {
      const signal = cancellationSignal();
      const domain = uuid.safeParse(vm).success
        ? ((await libvirt.lookupByUuid(vm, { signal })) ?? (await libvirt.lookupByName(vm, { signal })))
        : await libvirt.lookupByName(vm, { signal });
      const isVm = domain !== undefined && vmName.safeParse(domain.name).success;
      // Not for a validation's throw-away VM: it is nobody's to back up.
      return !isVm || backupOfThrowAway(domain.name) !== undefined ? [] : [await sighting(domain, signal)];
    },

    /** All VMs of the host that have names we can keep, and what the host can do. */
    async listVms(): Promise<HostInventory> {
      return await withHeartbeat('listing the VMs', async () => {
        const signal = cancellationSignal();
        const vms: VmSighting[] = [];
        for (const domain of await libvirt.listDomains({ signal })) {
          if (!vmName.safeParse(domain.name).success || backupOfThrowAway(domain.name) !== undefined) continue;
          const seen = await sighting(domain, signal).catch((error: unknown) => {
            signal.throwIfAborted();
            if (error instanceof Error && error.name === 'LibvirtError') return undefined; // undefined meanwhile
            throw error;
          });
          if (seen !== undefined) vms.push(seen);
        }
        const { libvirt: libvirtVersion = null, qemu: qemuVersion = null } = await versions();
        return { host, slots, libvirtVersion, qemuVersion, vms, seenAt: new Date().toISOString() };
      });
    },

    /**
     * What a plan needs to know of a VM: its disks with their bitmaps, its checkpoints, and which files of its chain are
     * not as the catalog has them.
     * @throws VmNotFound, RepositoryUnavailable, RepositoryForeign
     */
    async inspectVm(
      { vm, repository, strategy }: BackupTarget,
      parentFiles: { key: string; storedBytes: number | null }[],
    ): Promise<VmFacts> {
      return await withHeartbeat('looking at the VM', async () => {
        const signal = cancellationSignal();
        const store = openStore(repository.location);
        await openRepository(store, repository);
        const problems = await checkChainFiles(store, parentFiles);
        const domain = await domainOf(libvirt, vm, host, { signal });
        const power = powerOf((await libvirt.state(domain, { signal })).state);
        if (power !== 'shutoff') await endOrphanedJob({ libvirt, state }, domain, { signal });
        const { disks } = parseDomainXml(await libvirt.domainXml(domain, {}, { signal }));
        const isSnapshot = strategy === 'snapshot';
        const { chains } = isSnapshot ? await imageChains(libvirt, domain, { signal }) : { chains: undefined };
        const running = power === 'running' || power === 'paused';
        const bitmaps = running
          ? await runningBitmaps(libvirt, domain, disks, { signal })
          : await bitmapsOfStopped(disks, signal);
        return {
          uuid: vm.uuid,
          name: domain.name,
          power,
          disks: await Promise.all(
            disks.map(async (disk) => ({
              target: disk.target,
              device: disk.device,
              sourceType: disk.sourceType,
              sourcePath: disk.sourcePath,
              format: disk.format,
              serial: disk.serial,
              virtualSizeBytes: disk.empty
                ? null
                : (await libvirt.blockInfo(domain, disk.target, { signal })).capacityBytes,
              shareable: disk.shareable,
              readOnly: disk.readOnly,
              bitmaps: bitmaps.get(disk.target) ?? [],
              ...(isSnapshot || disk.device !== 'disk' ? {} : { mark: await imageMark(disk, { running, signal }) }),
              ...(chains === undefined ? {} : { layers: chains.get(disk.target) ?? [] }),
            })),
          ),
          checkpoints: await libvirt.checkpointList(domain, {}, { signal }),
          ...(isSnapshot ? { memorySnapshots: await snapshotsWithMemory(libvirt, domain, { signal }) } : {}),
          parentProblems: problems.map(({ key, problem }) => ({
            file: key,
            problem: problem === 'missing' ? 'missing' : 'damaged',
          })),
        };
      });
    },
  };
};

async function bitmapsOfStopped(disks: DomainDisk[], signal: AbortSignal): Promise<Map<string, DiskFacts['bitmaps']>> {
  const found = new Map<string, DiskFacts['bitmaps']>();
  for (const { target, sourcePath, format } of disks) {
    if (sourcePath !== null) found.set(target, await stoppedBitmaps(sourcePath, format, { signal }));
  }
  return found;
}

export interface HostInventory {
  host: string;
  slots: number;
  libvirtVersion: string | null;
  qemuVersion: string | null;
  vms: VmSighting[];
  seenAt: string;
}
