import { chmod, chown, link, lstat, mkdir, open, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseDomainXml, type DomainDefinition } from '../../libvirt/domain-xml.ts';
import { LibvirtError, type Domain } from '../../libvirt/libvirt.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import { openRepository } from '../../repository/identity.ts';
import { readManifest } from '../../repository/manifest.ts';
import type { RestoredVm } from '../../schemas/backup.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { KeptFile, Manifest } from '../../schemas/manifest.ts';
import { backupOfCheckpoint, vmName } from '../../schemas/names.ts';
import type { DiskToRestore, PreparedRestore, RestorePlan } from '../../schemas/restore-plan.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { isOwnNvram, nvramPathFor, placeOfKeptFile } from './kept-file-place.ts';
import { powerOf } from './power.ts';
import { isNotFound } from './json-notes.ts';
import { restoreFence } from './restore-disk.ts';
import type { RestoreNotes } from './restore-notes.ts';

export const createSwapDisks = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { host, libvirt, openStore, restores, fence, daemonRoot } = dependencies;

  return {
    /**
     * Puts the written disks in their places, the former ones kept beside until all are there, and defines the VM where
     * it has to be. At every instant each path holds a whole disk, the former or the new. Repeatable.
     * @throws VmNotStopped, VmNameTaken, VmDefinitionInvalid
     */
    async swapDisks(plan: RestorePlan, prepared: PreparedRestore): Promise<RestoredVm> {
      return await withHeartbeat('swapping the disks in', async () => {
        const signal = cancellationSignal();
        if ((await restores.read(plan.restoreId))?.phase !== 'swapped') {
          await requireStopped(prepared, signal);
          await restores.write(plan.restoreId, { plan, prepared, phase: 'swapping' });
          for (const disk of prepared.disks) await swapIn(disk);
          const store = openStore(plan.repository.location);
          await openRepository(store, plan.repository.id);
          await takeOver(plan, prepared, await readManifest(store, plan.vm.uuid, plan.backupId), signal);
          await restores.write(plan.restoreId, { plan, prepared, phase: 'swapped' });
        }
        return {
          vm: prepared.vm,
          disks: prepared.disks.map(({ target, path }) => ({ target, path, verified: true })),
        };
      });
    },

    /** Removes the former disks of a restore that is done, and starts the VM if asked. Repeatable. */
    async finishRestore(plan: RestorePlan, prepared: PreparedRestore): Promise<void> {
      await withHeartbeat('removing the former disks', async () => {
        const signal = cancellationSignal();
        for (const { formerPath } of prepared.disks) await rm(formerPath, { force: true });
        if (plan.start) {
          const domain = await libvirt.lookupByUuid(prepared.vm.uuid, { signal });
          if (domain !== undefined && powerOf((await libvirt.state(domain, { signal })).state) === 'shutoff') {
            await libvirt.create(domain, {}, { signal });
          }
        }
        await restores.remove(plan.restoreId);
      });
    },

    /**
     * Undoes a restore that did not come about: former disks back in their places, what was written removed, a VM that
     * was defined for it undefined. A restore whose swap was done stays. Repeatable.
     */
    async undoRestore(plan: RestorePlan): Promise<void> {
      await withHeartbeat('undoing the restore', async () => {
        const signal = cancellationSignal();
        await fence.stop((key) => key.startsWith(restoreFence(plan.restoreId, '')), 'undone');
        const noted = await restores.read(plan.restoreId);
        if (noted === undefined) return;
        if (noted.phase !== 'swapped') {
          if (noted.prepared.define) await undefine(noted.prepared.vm.uuid, signal);
          for (const disk of noted.prepared.disks)
            await swapBack(disk, noted.prepared.define && noted.phase === 'swapping');
        }
        for (const { formerPath } of noted.prepared.disks) await rm(formerPath, { force: true });
        await restores.remove(plan.restoreId);
      });
    },
  };

  async function requireStopped({ vm, define }: PreparedRestore, signal: AbortSignal): Promise<void> {
    const domain = await libvirt.lookupByUuid(vm.uuid, { signal });
    if (domain === undefined) {
      if (define) return;
      throw new HoldfastError('VmNotFound', `VM ${vm.name} went from host ${host} during its restore`);
    }
    const { state } = await libvirt.state(domain, { signal });
    if (powerOf(state) === 'shutoff') return;
    throw new HoldfastError('VmNotStopped', `VM ${vm.name} was started during its restore; its disks were not swapped`);
  }

  /** The definition, UEFI variables and TPM state; and the checkpoints' records, whose bitmaps went with the former disks. */
  async function takeOver(
    plan: RestorePlan,
    prepared: PreparedRestore,
    manifest: Manifest,
    signal: AbortSignal,
  ): Promise<void> {
    const present = await libvirt.lookupByUuid(prepared.vm.uuid, { signal });
    if (present === undefined) await define(plan, prepared, manifest, signal);
    else await forgetCheckpoints(present, signal);
    const domain = present ?? (await domainOf(libvirt, prepared.vm, host, { signal }));
    const definition = parseDomainXml(await libvirt.domainXml(domain, { inactive: true }, { signal }));
    for (const file of manifest.files) await putKeptFile(file, plan, definition, present === undefined);
  }

  async function forgetCheckpoints(domain: Domain, signal: AbortSignal): Promise<void> {
    for (const checkpoint of await libvirt.checkpointList(domain, {}, { signal })) {
      if (backupOfCheckpoint(checkpoint) === undefined) continue;
      await libvirt.checkpointDelete(domain, checkpoint, { metadataOnly: true }, { signal });
    }
  }

  async function define(
    plan: RestorePlan,
    { vm, disks }: PreparedRestore,
    manifest: Manifest,
    signal: AbortSignal,
  ): Promise<void> {
    const definition = parseDomainXml(manifest.domainXml.inactive);
    if (!vmName.safeParse(vm.name).success) throw new HoldfastError('VmDefinitionInvalid', `not a VM name: ${vm.name}`);
    const xml = rewriteDomainXml(manifest.domainXml.inactive, {
      name: vm.name,
      uuid: vm.uuid,
      ...(plan.as === null ? {} : { macs: 'drop' as const }),
      ...(plan.as === null || definition.nvram?.path == null
        ? {}
        : { nvramPath: nvramPathFor(definition.nvram.path, vm.name) }),
      disks: Object.fromEntries(disks.map(({ target, path, format }) => [target, { path, format }])),
    });
    await libvirt.define(xml, {}, { signal }).catch((error: unknown) => {
      if (!(error instanceof LibvirtError)) throw error;
      throw new HoldfastError(
        'VmDefinitionInvalid',
        `libvirt on ${host} refuses the definition of VM ${vm.name}: ${error.message}`,
        {
          cause: error,
        },
      );
    });
  }

  /** @param isNew the definition came out of the manifest: what exists at its path and is not libvirt's is left alone */
  async function putKeptFile(
    file: KeptFile,
    plan: RestorePlan,
    definition: DomainDefinition,
    isNew: boolean,
  ): Promise<void> {
    const path = placeOfKeptFile(file, definition, plan.vm.uuid);
    if (path === undefined) return; // the VM has no UEFI variables any more
    const place = join(await daemonRoot(), path);
    const owner = await stat(place).catch(() => undefined);
    if (isNew && owner !== undefined && file.kind === 'nvram' && !isOwnNvram(path)) {
      throw new HoldfastError(
        'DestinationExists',
        `${path}, for UEFI variables of ${definition.name}, exists; move it away`,
      );
    }
    await mkdir(dirname(place), { recursive: true, mode: 0o711 });
    const temporary = `${place}.holdfast-${plan.restoreId}`;
    await writeFile(temporary, Buffer.from(file.content, 'base64'), { mode: file.mode });
    if (owner !== undefined) await chown(temporary, owner.uid, owner.gid);
    await rename(temporary, place);
  }

  async function undefine(vmUuid: string, signal: AbortSignal): Promise<void> {
    const domain = await libvirt.lookupByUuid(vmUuid, { signal });
    if (domain === undefined) return;
    await libvirt.undefine(domain, { keepNvram: true, checkpointsMetadata: true }, { signal });
  }
};

/** A hard link keeps the former disk while a rename puts the new one in its place: there is no moment without a disk. */
async function swapIn({ path, besidePath, formerPath }: DiskToRestore): Promise<void> {
  if (!(await exists(besidePath))) return; // swapped by an earlier attempt
  const former = await stat(path).catch((error: unknown) => {
    if (isNotFound(error)) return undefined;
    throw error;
  });
  if (former !== undefined) {
    await chown(besidePath, former.uid, former.gid);
    await chmod(besidePath, former.mode & 0o7777);
    if (!(await exists(formerPath))) await link(path, formerPath);
  } else {
    await chmod(besidePath, 0o600);
  }
  await rename(besidePath, path);
  await syncFolder(dirname(path));
}

/** @param isOurs nothing was at the path before, so a disk there that is not beside any more is the one we swapped in */
async function swapBack({ path, besidePath, formerPath }: DiskToRestore, isOurs: boolean): Promise<void> {
  const swapped = !(await exists(besidePath));
  if (await exists(formerPath)) await rename(formerPath, path);
  else if (swapped && isOurs) await rm(path, { force: true });
  await rm(besidePath, { force: true });
  await syncFolder(dirname(path));
}

async function exists(path: string): Promise<boolean> {
  return await lstat(path).then(
    () => true,
    (error: unknown) => {
      if (isNotFound(error)) return false;
      throw error;
    },
  );
}

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, 'r');
  await folder.sync();
}
