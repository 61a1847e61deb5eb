import { randomUUID } from 'node:crypto';
import { lstat, mkdir, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { openRepository } from '../../repository/identity.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { DiskToRestore, PreparedRestore, RestorePlan } from '../../schemas/restore-plan.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import { isNotFound } from './json-notes.ts';
import type { HostDependencies } from './dependencies.ts';
import { powerOf } from './power.ts';
import { diskOfFile, filesOfDisk, readManifestChain, requireFiles, type ManifestChain } from './restore-chain.ts';
import { targetsInPlace, targetsOfNewVm, targetsWhereTheyWere, type RestoreTarget } from './restore-targets.ts';
import type { RestoreNotes } from './restore-notes.ts';

export const createPrepareRestore = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { host, libvirt, openStore, restores } = dependencies;

  return {
    /**
     * Checks all that can be checked before the first byte: the backup's files, the VM's state, which disk goes where,
     * and the space for them. Changes nothing but the host's own notes.
     * @throws BackupFileMissing, IntegrityMismatch, VmNotStopped, VmNameTaken, DiskMismatch, DestinationExists, DestinationFull
     */
    async prepareRestore(plan: RestorePlan): Promise<PreparedRestore> {
      return await withHeartbeat('checking the restore', async () => {
        const signal = cancellationSignal();
        const noted = await restores.read(plan.restoreId);
        if (noted !== undefined) return noted.prepared;
        const store = openStore(plan.repository.location);
        await openRepository(store, plan.repository.id);
        const chain = await readManifestChain(store, plan.vm.uuid, plan.backupId);
        const manifest = chain.get(plan.backupId);
        if (manifest === undefined) throw new HoldfastError('BackupNotFound', `no manifest of backup ${plan.backupId}`);
        const { vm, present, targets } = await placeFor(plan, manifest, signal);
        const disks = targets.map((target) => toRestore(target, chain, plan));
        await requireFiles(
          store,
          disks.flatMap((disk) => disk.chain.map((file) => diskOfFile(chain, file))),
        );
        if (present === undefined) await requireUnused(disks, signal);
        await requireSpace(disks, chain);
        const prepared: PreparedRestore = { vm, define: present === undefined, disks };
        await restores.write(plan.restoreId, { plan, prepared, phase: 'writing' });
        return prepared;
      });
    },
  };

  async function placeFor(plan: RestorePlan, manifest: Parameters<typeof targetsInPlace>[0], signal: AbortSignal) {
    const name = plan.as ?? plan.vm.name;
    const namesake = await libvirt.lookupByName(name, { signal });
    if (plan.as !== null) {
      if (namesake !== undefined) throw nameTaken(name, namesake);
      return { vm: { uuid: randomUUID(), name }, present: undefined, targets: targetsOfNewVm(manifest, name) };
    }
    const present = await libvirt.lookupByUuid(plan.vm.uuid, { signal });
    if (present === undefined) {
      if (namesake !== undefined) throw nameTaken(name, namesake);
      return { vm: plan.vm, present, targets: targetsWhereTheyWere(manifest) };
    }
    await requireRestorable(present, signal);
    const definition = parseDomainXml(await libvirt.domainXml(present, { inactive: true }, { signal }));
    return { vm: { uuid: present.uuid, name: present.name }, present, targets: targetsInPlace(manifest, definition) };
  }

  function nameTaken(name: string, namesake: Domain): HoldfastError {
    const message = `host ${host} has a VM ${name} already (${namesake.uuid}); choose another name`;
    return new HoldfastError('VmNameTaken', message);
  }

  async function requireRestorable(domain: Domain, signal: AbortSignal): Promise<void> {
    const { state } = await libvirt.state(domain, { signal });
    if (powerOf(state) !== 'shutoff') {
      throw new HoldfastError('VmNotStopped', `VM ${domain.name} is ${state}; stop it before it is restored in place`);
    }
    if (await libvirt.hasManagedSave(domain, { signal })) {
      throw new HoldfastError(
        'VmNotStopped',
        `VM ${domain.name} was stopped with its memory saved, which does not go with restored disks; start it and shut it ` +
          `down, or drop what is saved: virsh managedsave-remove ${domain.name}`,
      );
    }
    const snapshots = await libvirt.snapshotList(domain, { signal });
    if (snapshots.length > 0) {
      throw new HoldfastError(
        'DiskMismatch',
        `VM ${domain.name} has snapshots that a restore would lose: ${snapshots.join(', ')}; delete them, or use --as`,
      );
    }
  }

  function toRestore({ disk, path, format }: RestoreTarget, chain: ManifestChain, plan: RestorePlan): DiskToRestore {
    return {
      target: disk.target,
      chain: filesOfDisk(chain, plan.backupId, disk.target),
      virtualSizeBytes: disk.virtualSizeBytes,
      path,
      besidePath: `${path}.holdfast-${plan.restoreId}`,
      formerPath: `${path}.former-${plan.restoreId}`,
      format,
    };
  }

  /** A VM that is not defined here owns no file: what lies at its paths is somebody's. */
  async function requireUnused(disks: DiskToRestore[], signal: AbortSignal): Promise<void> {
    for (const { path } of disks) {
      const info = await lstat(path).catch((error: unknown) => {
        if (isNotFound(error)) return undefined;
        throw error;
      });
      if (info === undefined) continue;
      const user = await userOf(path, signal);
      throw new HoldfastError(
        'DestinationExists',
        `${path} exists${user === undefined ? '' : ` and belongs to VM ${user}`}; move it away, or restore under another name`,
      );
    }
  }

  async function userOf(path: string, signal: AbortSignal): Promise<string | undefined> {
    for (const domain of await libvirt.listDomains({ signal })) {
      const { disks } = parseDomainXml(await libvirt.domainXml(domain, {}, { signal }));
      if (disks.some(({ sourcePath }) => sourcePath === path)) return domain.name;
    }
    return undefined;
  }
};

/** Upper bound of what each file system will have to hold: all that the chains ever stored, at most the disks' sizes. */
async function requireSpace(disks: DiskToRestore[], chain: ManifestChain): Promise<void> {
  const neededByFolder = new Map<string, number>();
  for (const disk of disks) {
    const changedBytes = disk.chain.reduce((sum, file) => sum + diskOfFile(chain, file).changedBytes, 0);
    const folder = dirname(disk.path);
    await mkdir(folder, { recursive: true, mode: 0o711 });
    neededByFolder.set(folder, (neededByFolder.get(folder) ?? 0) + Math.min(disk.virtualSizeBytes, changedBytes));
  }
  const bySystem = new Map<string, { folder: string; neededBytes: number; freeBytes: number }>();
  for (const [folder, neededBytes] of neededByFolder) {
    const { dev } = await lstat(folder);
    const space = await statfs(folder);
    const before = bySystem.get(String(dev))?.neededBytes ?? 0;
    bySystem.set(String(dev), { folder, neededBytes: before + neededBytes, freeBytes: space.bavail * space.bsize });
  }
  for (const { folder, neededBytes, freeBytes } of bySystem.values()) {
    if (neededBytes <= freeBytes) continue;
    throw new HoldfastError(
      'DestinationFull',
      `${folder} needs up to ${neededBytes} bytes for the restored disks, ${freeBytes} are free; the VM was not touched`,
    );
  }
}
