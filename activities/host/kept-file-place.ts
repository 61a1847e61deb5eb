import { basename, dirname, isAbsolute, join, normalize } from 'node:path';
import type { DomainDefinition } from '../../libvirt/domain-xml.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { KeptFile } from '../../schemas/manifest.ts';

/** Where libvirt keeps what it makes itself. Source: libvirt src/qemu/qemu_conf.c, `nvramDir`, `swtpmStorageDir` */
const NVRAM_FOLDER = '/var/lib/libvirt/qemu/nvram';
const TPM_FOLDER = '/var/lib/libvirt/swtpm';

/** UEFI variables of a new VM lie beside those of the original, under its own name. */
export const nvramPathFor = (original: string, name: string): string =>
  join(dirname(original), `${name.replaceAll(/[^A-Za-z0-9._-]/g, '_')}_VARS.fd`);

/**
 * Where a kept file goes. A manifest comes from outside, so its paths are not followed: UEFI variables go where the VM's
 * definition on this host has them, TPM state below libvirt's own folder of the VM.
 * @param definition the VM as it is defined on the host after the restore
 * @param backedUpUuid the VM whose state the file holds
 * @throws HoldfastError VmDefinitionInvalid for a path that leaves its folder
 */
export function placeOfKeptFile(
  file: KeptFile,
  definition: DomainDefinition,
  backedUpUuid: string,
): string | undefined {
  if (file.kind === 'nvram') return definition.nvram?.path ?? undefined;
  return placeOfTpmFile(file, backedUpUuid, definition.uuid).place;
}

/**
 * Where libvirt looks for a file of TPM state once it belongs to the VM `uuid`, and its path inside that VM's folder.
 * @throws HoldfastError VmDefinitionInvalid for a path that leaves its folder
 */
export function placeOfTpmFile(
  file: Pick<KeptFile, 'path'>,
  backedUpUuid: string,
  uuid: string,
): { inside: string; place: string } {
  const folder = `${TPM_FOLDER}/${backedUpUuid}/`;
  const inside = file.path.startsWith(folder) ? file.path.slice(folder.length) : '';
  const place = `${TPM_FOLDER}/${uuid}/${inside}`;
  if (inside !== '' && isAbsolute(place) && normalize(place) === place) return { inside, place };
  throw new HoldfastError(
    'VmDefinitionInvalid',
    `TPM file ${file.path} does not lie in ${folder}; nothing was written there`,
  );
}

/**
 * Whether UEFI variables may be written to a path that a definition out of a manifest names: libvirt's own folder, or a
 * new file. What exists elsewhere is somebody's.
 */
export const isOwnNvram = (path: string): boolean =>
  normalize(path) === path && dirname(path) === NVRAM_FOLDER && basename(path).endsWith('.fd');
