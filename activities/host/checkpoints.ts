import { isLibvirtError, LIBVIRT_ERRORS, LibvirtError } from '../../libvirt/errors.ts';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { children, parseXml, serializeXml } from '../../libvirt/xml.ts';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { checkpointName } from '../../schemas/names.ts';
import { removeRunningBitmap } from './bitmaps.ts';
import { powerOf } from './power.ts';
import { removeStoppedBitmap } from './stopped-images.ts';

/**
 * Removes the checkpoint of a backup with its bitmaps: the record where the bitmaps are gone, the bitmaps where the record
 * is. Nothing to do when none of them is there.
 */
export async function removeCheckpoint(
  libvirt: Libvirt,
  domain: Domain,
  backupId: string,
  options: { signal: AbortSignal },
): Promise<void> {
  await removeRecorded(libvirt, domain, checkpointName(backupId), options);
  if (powerOf((await libvirt.state(domain, options)).state) !== 'shutoff') {
    await removeRunningBitmap(libvirt, domain, checkpointName(backupId), options);
    return;
  }
  // libvirt takes bitmaps out of running VMs only.
  for (const disk of parseDomainXml(await libvirt.domainXml(domain, {}, options)).disks) {
    if (disk.sourcePath !== null) await removeStoppedBitmap(disk.sourcePath, disk.format, backupId, options);
  }
}

async function removeRecorded(
  libvirt: Libvirt,
  domain: Domain,
  name: string,
  options: { signal: AbortSignal },
): Promise<void> {
  if (!(await libvirt.checkpointLookup(domain, name, options))) return;
  try {
    await libvirt.checkpointDelete(domain, name, {}, options);
  } catch (error) {
    if (isLibvirtError(error, LIBVIRT_ERRORS.NO_DOMAIN_CHECKPOINT)) return;
    if (!(error instanceof LibvirtError) || isLibvirtError(error, LIBVIRT_ERRORS.OPERATION_TIMEOUT)) throw error;
    await libvirt.checkpointDelete(domain, name, { metadataOnly: true }, options);
  }
}

/**
 * Brings a checkpoint's record back from its kept XML: the bitmap came along with the image when the VM was migrated or
 * defined anew, the record did not. libvirt compares it with the bitmap.
 * @throws HoldfastError CheckpointLost when the bitmap is not good
 */
export async function redefineCheckpoint(
  libvirt: Libvirt,
  domain: Domain,
  xml: string,
  options: { signal: AbortSignal },
): Promise<void> {
  // Kept when the checkpoint before it was still there, which libvirt would look for in vain.
  const root = parseXml(xml, 'domaincheckpoint');
  for (const parent of children(root, 'parent')) root.removeChild(parent);
  const orphan = serializeXml(root);
  try {
    await libvirt.checkpointCreate(domain, orphan, { redefine: true }, options);
    await libvirt.checkpointCreate(domain, orphan, { redefine: true, redefineValidate: true }, options);
  } catch (error) {
    if (!(error instanceof LibvirtError)) throw error;
    throw new HoldfastError(
      'CheckpointLost',
      `VM ${domain.name}: the checkpoint of its last backup cannot be taken up again (${error.message}); copying in full`,
      { cause: error },
    );
  }
}
