import { randomBytes, randomUUID } from 'node:crypto';
import { chown, copyFile, constants, mkdir, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain } from '../../libvirt/libvirt.ts';
import { isLibvirtError, LIBVIRT_ERRORS } from '../../libvirt/errors.ts';
import { qemuUserOf } from '../../libvirt/qemu-user.ts';
import { throwAwayDomain, type ThrowAwayDomain } from '../../libvirt/throw-away-domain.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import { runCommand } from '../run-command.ts';
import type { HostDependencies } from './dependencies.ts';
import { endImageServer } from './image-server.ts';
import { placeOfKeptFile } from './kept-file-place.ts';
import { statIfThere } from './stat-if-there.ts';
import type { ManifestChain } from './restore-chain.ts';
import { serveBackup, type DiskToServe } from './serve-backup.ts';
import { throwAwayName, ValidationNotes, type ThrowAwayNote } from './validation-notes.ts';

/** What the guest may write while it boots must fit; a guest that fills it is paused by QEMU. */
const SCRATCH_BYTES = 1024 * 1024 * 1024;
/** A kernel or initial RAM disk is smaller; more is not what it says it is. */
const MAX_BOOT_FILE_BYTES = 1024 * 1024 * 1024;
const TPM_FOLDER = '/var/lib/libvirt/swtpm';
const LOG_FOLDER = '/var/log/libvirt/qemu';

/** What the throw-away VM is made of. */
export interface StoredBackup {
  repository: RepositoryRecord;
  manifest: Manifest;
  chain: ManifestChain;
  disks: readonly DiskToServe[];
}

export interface ThrowAwayVm extends Omit<ThrowAwayDomain, 'xml'> {
  domain: Domain;
  startedMs: number;
}

type Owner = { uid: number; gid: number } | undefined;

/** Makes and ends domains that live for one validation. Everything of one lies in folders named by the validation. */
export const createThrowAwayVms = ({ libvirt, state, gateways, daemonRoot }: HostDependencies) => {
  const notes = new ValidationNotes(state);

  return {
    notes,

    /**
     * Starts a domain on layers over a gateway that serves the backup. What it makes is noted first.
     * @throws DomainXmlError, HoldfastError DestinationFull, GatewayFailed, VmNameTaken, LibvirtError
     */
    async start(
      ids: { validationId: string; backupId: string },
      { repository, manifest, chain, disks }: StoredBackup,
      { signal }: { signal: AbortSignal },
    ): Promise<ThrowAwayVm> {
      const original = parseDomainXml(manifest.domainXml.inactive);
      const folder = state.scratchFolder(ids.validationId);
      const owner = qemuUserOf(await libvirt.capabilitiesXml({ signal }));
      const note: ThrowAwayNote = {
        ...ids,
        uuid: randomUUID(),
      };
      const name = throwAwayName(ids.backupId);
      await endNamesake(ids.backupId, signal);
      await notes.write(note);
      await state.prepareFor(ids.validationId, owner);
      await requireScratch(folder);
      const place = (name: string): string => join(folder, name);
      const served = await serveBackup(
        { state, gateways },
        { id: ids.validationId, repository, chain, disks, owner },
        { signal },
      );
      for (const { target, virtualSizeBytes } of disks) {
        await runCommand(
          ['qemu-img', 'create', '-q', '-f', 'qcow2', place(`${target}.qcow2`), String(virtualSizeBytes)],
          { signal },
        );
        await give(place(`${target}.qcow2`), owner);
      }
      const root = await daemonRoot();
      await copyBootFile(original.kernel, root, place('kernel'), owner);
      await copyBootFile(original.initrd, root, place('initrd'), owner);
      const made = throwAwayDomain(manifest.domainXml.inactive, {
        name,
        uuid: note.uuid,
        macs: original.interfaces.map(newMac),
        nvramPath: place('nvram.fd'),
        kernelPath: original.kernel === null ? null : place('kernel'),
        initrdPath: original.initrd === null ? null : place('initrd'),
        disks: Object.entries(served).map(([target, beneath]) => ({
          target,
          overlayPath: place(`${target}.qcow2`),
          ...beneath,
        })),
      });
      const nvram = manifest.files.find(({ kind }) => kind === 'nvram');
      if (nvram !== undefined) {
        await writeFile(place('nvram.fd'), Buffer.from(nvram.content, 'base64'), { mode: 0o600 });
        await give(place('nvram.fd'), owner);
      }
      if (made.hasTpm) await putTpmState(manifest, original, note.uuid, root);
      const { xml, ...facts } = made;
      const domain = await libvirt.createXml(xml, { signal });
      return { domain, startedMs: Date.now(), ...facts };
    },

    end,

    /** Whether the domain still runs. */
    async stateOf(domain: Domain, { signal }: { signal: AbortSignal }): Promise<'running' | 'paused' | 'gone'> {
      const found = await libvirt.lookupByUuid(domain.uuid, { signal });
      if (found === undefined) return 'gone';
      const { state: now } = await libvirt.state(found, { signal }).catch((error: unknown) => {
        if (isLibvirtError(error, LIBVIRT_ERRORS.NO_DOMAIN)) return { state: 'shutoff' as const };
        throw error;
      });
      if (now === 'running' || now === 'blocked' || now === 'pmsuspended') return 'running';
      return now === 'paused' ? 'paused' : 'gone';
    },
  };

  /** Ends a throw-away domain and removes all that was made for it. Repeatable; nothing to do when nothing was. */
  async function end(validationId: string, { signal }: { signal: AbortSignal }): Promise<void> {
    const note = await notes.read(validationId);
    if (note !== undefined) {
      const domain = await libvirt.lookupByUuid(note.uuid, { signal });
      if (domain?.name === throwAwayName(note.backupId)) await destroy(domain, signal);
      await gateways.end(validationId);
      const folder = state.socketFolder(validationId);
      for (const target of note.targets ?? []) {
        await endImageServer({ socketPath: join(folder, target), pidFile: join(folder, `${target}.pid`) });
      }
      const root = await daemonRoot();
      await rm(join(root, TPM_FOLDER, note.uuid), { recursive: true, force: true });
      await rm(join(root, LOG_FOLDER, `${throwAwayName(note.backupId)}.log`), { force: true });
    }
    await state.remove(validationId);
    await notes.remove(validationId);
  }

  async function destroy(domain: Domain, signal: AbortSignal): Promise<void> {
    await libvirt.destroy(domain, { signal }).catch((error: unknown) => {
      if (!isLibvirtError(error, LIBVIRT_ERRORS.NO_DOMAIN, LIBVIRT_ERRORS.OPERATION_INVALID)) throw error; // it has ended
    });
  }

  /** What an ended run left under the name. The backup is marked as ours alone, so no run that goes on has made it. */
  async function endNamesake(backupId: string, signal: AbortSignal): Promise<void> {
    for (const { id } of await notes.list()) {
      if ((await notes.read(id))?.backupId === backupId) await end(id, { signal });
    }
    const name = throwAwayName(backupId);
    const namesake = await libvirt.lookupByName(name, { signal });
    if (namesake === undefined) return;
    if (await libvirt.isPersistent(namesake, { signal })) {
      throw new HoldfastError(
        'VmNameTaken',
        `a VM ${name} is defined on the host, and Holdfast never defines one: rename it`,
      );
    }
    await destroy(namesake, signal);
  }
};

async function requireScratch(folder: string): Promise<void> {
  const space = await statfs(folder);
  const freeBytes = space.bavail * space.bsize;
  if (freeBytes >= SCRATCH_BYTES) return;
  throw new HoldfastError(
    'DestinationFull',
    `${folder} needs ${SCRATCH_BYTES} bytes for what the guest writes while it boots, ${freeBytes} are free`,
  );
}

async function give(path: string, owner: Owner): Promise<void> {
  if (owner !== undefined && process.getuid?.() === 0) await chown(path, owner.uid, owner.gid);
}

/** libvirt gives a kernel to QEMU's user while a domain runs: a copy is given, not the host's own file. */
async function copyBootFile(path: string | null, root: string, to: string, owner: Owner): Promise<void> {
  if (path === null) return;
  const from = join(root, path);
  const info = await stat(from).catch((error: unknown) => {
    throw new HoldfastError('VmDefinitionInvalid', `the VM boots from ${path}, which this host does not have`, {
      cause: error,
    });
  });
  if (!info.isFile() || info.size > MAX_BOOT_FILE_BYTES) {
    throw new HoldfastError('VmDefinitionInvalid', `the VM boots from ${path}, which is no kernel or RAM disk`);
  }
  await copyFile(from, to, constants.COPYFILE_FICLONE);
  await give(to, owner);
}

/** TPM state of the backup, under the throw-away domain's own UUID. */
async function putTpmState(
  manifest: Manifest,
  original: ReturnType<typeof parseDomainXml>,
  uuid: string,
  root: string,
): Promise<void> {
  // swtpm's user, as far as it can be seen: whoever owns what is there.
  const known = await statIfThere(join(root, TPM_FOLDER, original.uuid));
  for (const file of manifest.files.filter(({ kind }) => kind === 'tpm')) {
    const path = placeOfKeptFile(file, { ...original, uuid }, manifest.vm.uuid);
    if (path === undefined) continue;
    const place = join(root, path);
    await mkdir(dirname(place), { recursive: true, mode: 0o711 });
    await writeFile(place, Buffer.from(file.content, 'base64'), { mode: file.mode });
    for (const owned of [dirname(place), place]) await give(owned, known);
  }
}

/** Of the range that QEMU's guests have. */
const newMac = (): string =>
  ['52', '54', '00', ...[...randomBytes(3)].map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
