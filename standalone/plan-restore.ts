import { createHash, randomUUID } from 'node:crypto';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { requireOpening } from '../activities/host/chain-files.ts';
import { placeOfTpmFile } from '../activities/host/kept-file-place.ts';
import { fileId } from '../activities/host/publish-file.ts';
import {
  diskOfFile,
  filesOfDisk,
  readManifestChain,
  requireFiles,
  type ManifestChain,
} from '../activities/host/restore-chain.ts';
import { neededBytesOf, requireSpace } from '../activities/host/restore-space.ts';
import { formatOf } from '../activities/host/restore-targets.ts';
import { parseDomainXml, type DomainDefinition } from '../libvirt/domain-xml.ts';
import { rewriteDomainXml } from '../libvirt/rewrite-domain-xml.ts';
import { HoldfastError } from '../schemas/failures.ts';
import type { KeptFile, Manifest } from '../schemas/manifest.ts';
import type { DiskToRestore } from '../schemas/restore-plan.ts';
import { requireKeys, type OpenPlace } from './open-place.ts';

export interface StandaloneRequest {
  /** Folder that everything goes to, absolute; made if it is not there. */
  folder: string;
  /** Name of the new VM; absent to restore the VM as it was. */
  as?: string | undefined;
  keepUuid?: boolean | undefined;
  keepMacs?: boolean | undefined;
  linksDown?: boolean | undefined;
  /** Only these disks, and no definition. */
  disks?: readonly string[] | undefined;
  /** Default: as each disk was. */
  format?: 'qcow2' | 'raw' | undefined;
}

export type StandaloneDisk = Pick<
  DiskToRestore,
  'target' | 'chain' | 'virtualSizeBytes' | 'path' | 'besidePath' | 'format'
> & { neededBytes: number };

/** A small file that is written beside the disks. */
export interface StandaloneFile {
  kind: 'definition' | 'nvram' | 'tpm';
  path: string;
  mode: number;
  content: Buffer;
  /** Of TPM state: where libvirt looks for it, because no definition can name another place. */
  belongsTo?: string;
}

export interface StandalonePlan {
  backup: Pick<Manifest, 'id' | 'instant' | 'type' | 'consistency'>;
  /** Name and UUID of the VM that the definition makes. */
  vm: { uuid: string; name: string };
  folder: string;
  chain: ManifestChain;
  disks: StandaloneDisk[];
  /** The definition comes last; none when only some of the disks are wanted. */
  files: StandaloneFile[];
  definition: { path: string; xml: string } | null;
  warnings: string[];
}

/**
 * Looks at everything that can be looked at before the first byte: the chain's manifests, the sizes of its files, kept files
 * against their hashes, what lies in the destination, and the room there. Writes nothing anywhere.
 * @param refuse told of each reason why the restore cannot be now; what else can be looked at still is
 * @throws HoldfastError KeyMissing, BackupFileMissing, IntegrityMismatch, BackupNotRestorable, DiskMismatch, VmDefinitionInvalid
 */
export async function planStandaloneRestore(
  place: OpenPlace,
  manifest: Manifest,
  request: StandaloneRequest,
  refuse: (reason: HoldfastError) => void,
): Promise<StandalonePlan> {
  const { store } = place;
  requireKeys(place, manifest);
  const chain = await readManifestChain(store, manifest.vm.uuid, manifest.id);
  const name = request.as ?? manifest.vm.name;
  const vm = {
    uuid: request.as === undefined || request.keepUuid === true ? manifest.vm.uuid : randomUUID(),
    name,
  };
  const disks = wantedDisks(manifest, request.disks).map((disk): StandaloneDisk => {
    const files = filesOfDisk(chain, manifest.id, disk.target);
    const format = request.format ?? formatOf(disk.sourceFormat);
    const path = join(request.folder, `${safeName(name)}-${disk.target}.${format === 'raw' ? 'img' : format}`);
    const { target, virtualSizeBytes } = disk;
    const neededBytes = neededBytesOf({ chain: files, virtualSizeBytes }, chain);
    const besidePath = `${path}.holdfast-${randomUUID()}`;
    return { target, chain: files, virtualSizeBytes, path, besidePath, format, neededBytes };
  });
  const stored = disks.flatMap((disk) => disk.chain.map((file) => diskOfFile(chain, file)));
  await requireFiles(store, stored);
  await requireOpening(store, place.keys, stored);
  const { files, definition, warnings } =
    request.disks === undefined
      ? await planDefinition(manifest, request, vm, disks)
      : { files: [], definition: null, warnings: [] };
  for (const { path } of [...disks, ...files]) {
    if ((await fileId(path)) === undefined) continue;
    refuse(new HoldfastError('DestinationExists', `${path} exists; move it away, or choose another folder with --to`));
  }
  await requireSpace(disks, chain).catch((error: unknown) => {
    if (!(error instanceof HoldfastError)) throw error;
    refuse(error);
  });
  const { id, instant, type, consistency } = manifest;
  return {
    backup: { id, instant, type, consistency },
    vm,
    folder: request.folder,
    chain,
    disks,
    files,
    definition,
    warnings,
  };
}

function wantedDisks(manifest: Manifest, only: readonly string[] | undefined): Manifest['disks'] {
  const unknown = (only ?? []).filter((target) => !manifest.disks.some((disk) => disk.target === target));
  if (unknown.length > 0) {
    const there = manifest.disks.map(({ target }) => target).join(', ');
    throw new HoldfastError('DiskMismatch', `backup ${manifest.id} has no disk ${unknown.join(', ')}; it has ${there}`);
  }
  return manifest.disks.filter(({ target }) => only === undefined || only.includes(target));
}

/** The definition for the files' new places, and what else belongs to the VM beside its disks. */
async function planDefinition(
  manifest: Manifest,
  { folder, as, keepMacs, linksDown }: StandaloneRequest,
  vm: { uuid: string; name: string },
  disks: readonly StandaloneDisk[],
): Promise<Pick<StandalonePlan, 'files' | 'definition' | 'warnings'>> {
  const original = parseDomainXml(manifest.domainXml.inactive);
  const nvram = manifest.files.find(({ kind }) => kind === 'nvram');
  const nvramPath = join(folder, `${safeName(vm.name)}_VARS.fd`);
  const xml = rewriteDomainXml(manifest.domainXml.inactive, {
    name: vm.name,
    uuid: vm.uuid,
    newGenerationId: true,
    ...(as === undefined || keepMacs === true ? {} : { macs: 'drop' as const }),
    ...(linksDown === true ? { linksDown: true } : {}),
    ...(original.nvram === null ? {} : { nvramPath: nvram === undefined ? null : nvramPath }),
    disks: Object.fromEntries(disks.map(({ target, path, format }) => [target, { path, format }])),
  });
  const path = join(folder, `${safeName(vm.name)}.xml`);
  const kept = manifest.files.map((file): StandaloneFile => {
    const { kind } = file;
    const mode = file.mode & 0o777;
    if (kind === 'nvram') return { kind, path: nvramPath, mode, content: contentOf(file) };
    const { inside, place } = placeOfTpmFile(file, manifest.vm.uuid, vm.uuid);
    const beside = join(folder, `${safeName(vm.name)}-tpm`, inside);
    return { kind, path: beside, mode, content: contentOf(file), belongsTo: place };
  });
  return {
    // The definition may hold secrets, like a VNC password.
    files: [...kept, { kind: 'definition', path, mode: 0o600, content: Buffer.from(`${xml}\n`) }],
    definition: { path, xml },
    warnings: [...manifest.skippedDisks.map(notInBackup), ...(await missingHere(original, disks))],
  };
}

/** What `virsh define` and a file system take alike. */
const safeName = (name: string): string => name.replaceAll(/[^A-Za-z0-9._-]/g, '_').replace(/^[.-]/, '_');

const notInBackup = ({ target, reason }: Manifest['skippedDisks'][number]): string =>
  `disk ${target} is in the definition and not in the backup: ${reason}`;

function contentOf({ kind, path, content, sha256 }: KeptFile): Buffer {
  const bytes = Buffer.from(content, 'base64');
  if (createHash('sha256').update(bytes).digest('hex') === sha256) return bytes;
  throw new HoldfastError(
    'IntegrityMismatch',
    `the manifest's copy of ${kind} file ${path} was altered; nothing was written`,
  );
}

/** Files that the definition wants of its host. */
async function missingHere(
  { kernel, initrd, disks }: DomainDefinition,
  restored: readonly StandaloneDisk[],
): Promise<string[]> {
  const others = disks.filter(({ target }) => !restored.some((disk) => disk.target === target));
  const paths = [kernel, initrd, ...others.map(({ sourcePath }) => sourcePath)].filter((path) => path !== null);
  const missing = await Promise.all(
    paths.map((path) =>
      access(path).then(
        () => [],
        () => [path],
      ),
    ),
  );
  return missing.flat().map((path) => `the definition names ${path}, which is not on this machine`);
}
