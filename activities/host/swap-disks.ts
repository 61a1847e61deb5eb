import { chown, link, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { diskOnFile, movedDiskXml } from '../../libvirt/disk-xml.ts';
import { parseDomainXml, type DomainDefinition } from '../../libvirt/domain-xml.ts';
import { LIBVIRT_ERRORS } from '../../libvirt/errors.ts';
import { LibvirtError, type Domain } from '../../libvirt/libvirt.ts';
import { rewriteDomainXml } from '../../libvirt/rewrite-domain-xml.ts';
import type { RestoredVm } from '../../schemas/backup.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { KeptFile, Manifest } from '../../schemas/manifest.ts';
import { backupOfCheckpoint, vmName } from '../../schemas/names.ts';
import type { DiskToRestore, PreparedRestore, RestorePlan } from '../../schemas/restore-plan.ts';
import { CommandFailed } from '../run-command.ts';
import { cancellationSignal, withHeartbeat } from '../cancellation.ts';
import type { HostDependencies } from './dependencies.ts';
import { domainOf } from './domain.ts';
import { isOwnNvram, nvramPathFor, placeOfKeptFile } from './kept-file-place.ts';
import { powerOf } from './power.ts';
import { fileId } from './publish-file.ts';
import { removeCheckpoint } from './checkpoints.ts';
import { openRestoreSource } from './restore-source.ts';
import { statIfThere } from './stat-if-there.ts';
import { swapBack, swapIn } from './swap-files.ts';
import { restoreFence } from './restore-disk.ts';
import type { RestoreNote, RestoreNotes } from './restore-notes.ts';

export const createSwapDisks = (dependencies: HostDependencies & { restores: RestoreNotes }) => {
  const { host, libvirt, restores, fence, daemonRoot } = dependencies;

  return {
    /**
     * Puts the written disks in their places, the former ones kept beside until all are there, and defines the VM where
     * it has to be. At every instant each path holds a whole disk, the former or the new. Repeatable.
     * @throws VmNotStopped, VmNameTaken, VmDefinitionInvalid
     */
    async swapDisks(plan: RestorePlan, prepared: PreparedRestore): Promise<RestoredVm> {
      return await withHeartbeat('swapping the disks in', async () => {
        const signal = cancellationSignal();
        const noted = await restores.read(plan.restoreId);
        if (noted?.phase !== 'swapped') {
          await requireStopped(prepared, noted, signal);
          const note: RestoreNote = {
            ...noted,
            plan,
            prepared,
            phase: 'swapping',
            fileIds: noted?.fileIds ?? (await fileIdsOf(prepared)),
            isDefining: noted?.isDefining ?? false,
          };
          await restores.write(plan.restoreId, note);
          for (const disk of prepared.disks) await swapIn(disk);
          const { manifest } = await openRestoreSource(dependencies, plan);
          await takeOver(note, manifest, signal);
          await restores.write(plan.restoreId, { ...note, phase: 'swapped' });
        }
        const warnings = prepared.warnings ?? [];
        return {
          vm: prepared.vm,
          disks: prepared.disks.map(({ target, attachAs, path }) => ({
            target: attachAs ?? target,
            path,
            verified: true,
          })),
          ...(warnings.length === 0 ? {} : { warnings }),
        };
      });
    },

    /** Removes the former disks of a restore that is done, and starts the VM if asked. Repeatable. */
    async finishRestore(plan: RestorePlan, prepared: PreparedRestore): Promise<void> {
      await withHeartbeat('removing the former disks', async () => {
        const signal = cancellationSignal();
        for (const { formerPath } of prepared.disks) await rm(formerPath, { force: true });
        await removeFormer(await restores.read(plan.restoreId));
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
        if (noted === undefined) {
          await restores.remove(plan.restoreId); // half a note, where the host was full
          return;
        }
        if (noted.phase === 'swapping') {
          const domain = await libvirt.lookupByUuid(noted.prepared.vm.uuid, { signal });
          if (domain !== undefined) await requireNotRunning(domain, signal);
          // A VM that somebody defined meanwhile is not ours.
          if (domain !== undefined && noted.prepared.define && noted.isDefining !== false)
            await undefine(domain, signal);
          else if (domain !== undefined) await takeOut(domain, noted, signal);
          for (const { place, former } of noted.keptFiles ?? []) {
            if (former === null) await rm(place, { force: true });
            else if ((await fileId(former)) !== undefined) await rename(former, place);
          }
        }
        if (noted.phase !== 'swapped') {
          for (const disk of noted.prepared.disks) await swapBack(disk, noted.fileIds?.[disk.target]);
        }
        for (const { formerPath } of noted.prepared.disks) await rm(formerPath, { force: true });
        await removeFormer(noted);
        await restores.remove(plan.restoreId);
      });
    },
  };

  /** Its disks cannot be swapped back under a running VM; whoever started it must decide. */
  async function requireNotRunning(domain: Domain, signal: AbortSignal): Promise<void> {
    const { state } = await libvirt.state(domain, { signal });
    if (powerOf(state) === 'shutoff') return;
    throw new HoldfastError(
      'VmNotStopped',
      `VM ${domain.name} was started while its disks were swapped in; shut it down, and its former disks are put back`,
    );
  }

  async function requireStopped(
    { vm, define }: PreparedRestore,
    noted: RestoreNote | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const domain = await libvirt.lookupByUuid(vm.uuid, { signal });
    if (define && domain !== undefined && noted?.isDefining !== true) {
      throw new HoldfastError('VmUuidTaken', `VM ${domain.name} came to be on host ${host} during the restore`);
    }
    if (domain === undefined) {
      if (define) return;
      throw new HoldfastError('VmNotFound', `VM ${vm.name} went from host ${host} during its restore`);
    }
    const { state } = await libvirt.state(domain, { signal });
    if (powerOf(state) === 'shutoff') return;
    throw new HoldfastError('VmNotStopped', `VM ${vm.name} was started during its restore; its disks were not swapped`);
  }

  /** The definition, UEFI variables and TPM state; and the checkpoints, whose bitmaps went with the former disks. */
  async function takeOver(note: RestoreNote, manifest: Manifest, signal: AbortSignal): Promise<void> {
    const { plan, prepared } = note;
    if (prepared.define) {
      await restores.write(plan.restoreId, Object.assign(note, { isDefining: true }));
      if ((await libvirt.lookupByUuid(prepared.vm.uuid, { signal })) === undefined)
        await define(plan, prepared, manifest, signal);
    }
    const domain = await domainOf(libvirt, prepared.vm, host, { signal });
    if (!prepared.define) {
      for (const disk of prepared.disks) if (disk.attachAs != null) await addDisk(domain, disk, manifest, signal);
    }
    if (plan.disks == null) {
      const definition = parseDomainXml(await libvirt.domainXml(domain, { inactive: true }, { signal }));
      for (const file of manifest.files) await putKeptFile(file, note, definition);
    }
    if (!prepared.define) {
      if (plan.disks == null) await renewGenerationId(domain, signal);
      for (const checkpoint of await libvirt.checkpointList(domain, {}, { signal })) {
        const backupId = backupOfCheckpoint(checkpoint);
        // With its bitmaps: those of disks that stayed are there still.
        if (backupId === undefined) continue;
        await removeCheckpoint(libvirt, domain, backupId, { signal }).catch((error: unknown) => {
          if (!(error instanceof CommandFailed)) throw error; // an image that stayed cannot be read; that is no news to its owner
        });
      }
    }
  }

  /** The guest learns that it goes on from an earlier state; a domain controller, say, must know. */
  async function renewGenerationId(domain: Domain, signal: AbortSignal): Promise<void> {
    const xml = await libvirt.domainXml(domain, { inactive: true, secure: true }, { signal });
    if (!/<genid>/.test(xml)) return;
    await libvirt.define(rewriteDomainXml(xml, { newGenerationId: true }), {}, { signal });
  }

  /** Adds a disk that the VM has no more, where the guest had it if that is free. */
  async function addDisk(domain: Domain, disk: DiskToRestore, manifest: Manifest, signal: AbortSignal): Promise<void> {
    const { path, format, attachAs } = disk;
    if (attachAs == null) return;
    if (diskOnFile(await libvirt.domainXml(domain, { inactive: true }, { signal }), path) !== undefined) return;
    const xmlOf = (address: boolean): string =>
      movedDiskXml(manifest.domainXml.inactive, disk.target, { path, format, target: attachAs }, { address });
    await libvirt
      .attachDevice(domain, xmlOf(true), { config: true }, { signal })
      .catch(async (error: unknown) => {
        if (!isRefusal(error)) throw error;
        await libvirt.attachDevice(domain, xmlOf(false), { config: true }, { signal });
      })
      .catch((error: unknown) => {
        if (!isRefusal(error)) throw error;
        throw new HoldfastError(
          'DiskNotAttachable',
          `libvirt on ${host} does not add disk ${attachAs} to VM ${domain.name}: ${error.message}`,
          { cause: error },
        );
      });
  }

  async function takeOut(domain: Domain, { prepared }: RestoreNote, signal: AbortSignal): Promise<void> {
    for (const { attachAs, path } of prepared.disks) {
      if (attachAs == null) continue;
      const added = diskOnFile(await libvirt.domainXml(domain, { inactive: true }, { signal }), path);
      if (added !== undefined) await libvirt.detachDevice(domain, added.xml, { config: true }, { signal });
    }
  }

  async function define(
    plan: RestorePlan,
    { vm, disks }: PreparedRestore,
    manifest: Manifest,
    signal: AbortSignal,
  ): Promise<void> {
    const definition = parseDomainXml(manifest.domainXml.inactive);
    const namesake = await libvirt.lookupByName(vm.name, { signal });
    if (namesake !== undefined) {
      throw new HoldfastError('VmNameTaken', `a VM ${vm.name} came to be on host ${host} during the restore`);
    }
    if (!vmName.safeParse(vm.name).success) throw new HoldfastError('VmDefinitionInvalid', `not a VM name: ${vm.name}`);
    const xml = rewriteDomainXml(manifest.domainXml.inactive, {
      name: vm.name,
      uuid: vm.uuid,
      newGenerationId: true,
      ...(plan.as === null || plan.keepMacs === true ? {} : { macs: 'drop' as const }),
      ...(plan.linksDown === true ? { linksDown: true } : {}),
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

  /** Where the definition came out of the manifest, what exists at its path and is not libvirt's is left alone. */
  async function putKeptFile(file: KeptFile, note: RestoreNote, definition: DomainDefinition): Promise<void> {
    const { plan, prepared } = note;
    const path = placeOfKeptFile(file, definition, plan.vm.uuid);
    if (path === undefined) return; // the VM has no UEFI variables any more
    const place = join(await daemonRoot(), path);
    const owner = await statIfThere(place);
    const former = `${place}.former-${plan.restoreId}`;
    const isNoted = note.keptFiles?.some((kept) => kept.place === place) === true;
    if (!isNoted && prepared.define && owner !== undefined && file.kind === 'nvram' && !isOwnNvram(path)) {
      throw new HoldfastError(
        'DestinationExists',
        `${path}, for UEFI variables of ${definition.name}, exists; move it away`,
      );
    }
    await mkdir(dirname(place), { recursive: true, mode: 0o711 });
    if (!isNoted) {
      const kept = { place, former: owner === undefined ? null : former };
      await restores.write(plan.restoreId, Object.assign(note, { keptFiles: [...(note.keptFiles ?? []), kept] }));
    }
    // Before it is replaced: as long as it has no second name it is the former one.
    if (owner !== undefined && (await fileId(former)) === undefined && keepsFormer(note, place))
      await link(place, former);
    const temporary = `${place}.holdfast-${plan.restoreId}`;
    await writeFile(temporary, Buffer.from(file.content, 'base64'), { mode: file.mode });
    if (owner !== undefined) await chown(temporary, owner.uid, owner.gid);
    await rename(temporary, place);
  }

  async function undefine(domain: Domain, signal: AbortSignal): Promise<void> {
    await libvirt.undefine(domain, { keepNvram: true, checkpointsMetadata: true }, { signal });
  }
};

/** libvirt's last word; not that it is busy. */
const isRefusal = (error: unknown): error is LibvirtError =>
  error instanceof LibvirtError && error.code !== LIBVIRT_ERRORS.OPERATION_TIMEOUT;

const keepsFormer = ({ keptFiles = [] }: RestoreNote, place: string): boolean =>
  keptFiles.some((kept) => kept.place === place && kept.former !== null);

/** UEFI variables and TPM state as they were before. */
async function removeFormer(noted: RestoreNote | undefined): Promise<void> {
  for (const { former } of noted?.keptFiles ?? []) if (former !== null) await rm(former, { force: true });
}

async function fileIdsOf({ disks }: PreparedRestore): Promise<Record<string, string>> {
  const ids = await Promise.all(
    disks.map(async ({ target, besidePath }) => [target, await fileId(besidePath)] as const),
  );
  return Object.fromEntries(ids.flatMap(([target, id]) => (id === undefined ? [] : [[target, id]])));
}
