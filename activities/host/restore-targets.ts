import { dirname, isAbsolute, join, normalize } from 'node:path';
import type { DomainDefinition, DomainDisk } from '../../libvirt/domain-xml.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Manifest, ManifestDisk } from '../../schemas/manifest.ts';

/** Where disks of a new VM go whose original was no file. */
export const DEFAULT_FOLDER = '/var/lib/libvirt/images';

export interface RestoreTarget {
  disk: ManifestDisk;
  path: string;
  format: 'qcow2' | 'raw';
}

/** For each disk of the backup, the disk of the present VM that it belongs to: by serial, else by place, else by target. */
export function targetsInPlace(manifest: Manifest, present: DomainDefinition): RestoreTarget[] {
  const matches = new Map<ManifestDisk, DomainDisk>();
  // The surest mark first, for all disks: else one that lost its place takes the place of another.
  for (const isSame of MARKS) {
    for (const disk of manifest.disks.filter((each) => !matches.has(each))) {
      const free = present.disks.filter(
        (each) => each.device === 'disk' && !each.empty && ![...matches.values()].includes(each),
      );
      const match = free.find((each) => isSame(disk, each));
      if (match !== undefined) matches.set(disk, match);
    }
  }
  return manifest.disks.map((disk) => {
    const match = matches.get(disk);
    if (match === undefined) {
      throw new HoldfastError(
        'DiskMismatch',
        `disk ${disk.target} of the backup (serial ${disk.serial ?? 'none'}, ${disk.sourcePath ?? 'no path'}) is not on ` +
          `VM ${present.name} any more; restore it as a new VM with --as`,
      );
    }
    if (match.sourceType !== 'file' || match.sourcePath === null) {
      throw new HoldfastError(
        'DiskMismatch',
        `disk ${match.target} of VM ${present.name} is no file (${match.sourceType}): nothing can be written beside it; ` +
          'restore as a new VM with --as',
      );
    }
    if (match.backingChain.length > 0) {
      throw new HoldfastError(
        'DiskMismatch',
        `disk ${match.target} of VM ${present.name} is defined as a layer on ${match.backingChain[0]?.path ?? 'another image'}; ` +
          'a restored disk would be read through it: restore as a new VM with --as',
      );
    }
    return { disk, path: match.sourcePath, format: formatOf(match.format) };
  });
}

const MARKS: ((disk: ManifestDisk, present: DomainDisk) => boolean)[] = [
  (disk, { serial }) => disk.serial !== null && serial === disk.serial,
  (disk, { sourcePath, serial }) =>
    disk.sourcePath !== null && sourcePath === disk.sourcePath && agrees(serial, disk.serial),
  (disk, { target, serial }) => target === disk.target && agrees(serial, disk.serial),
];

const agrees = (present: string | null, backedUp: string | null): boolean =>
  present === null || backedUp === null || present === backedUp;

/** Disks of a VM that is gone go back to where they were. */
export function targetsWhereTheyWere(manifest: Manifest): RestoreTarget[] {
  return manifest.disks.map((disk) => {
    if (disk.sourcePath === null || !isPlainAbsolute(disk.sourcePath)) {
      throw new HoldfastError('DiskMismatch', `disk ${disk.target} was no file; restore as a new VM with --as`);
    }
    return { disk, path: disk.sourcePath, format: formatOf(disk.sourceFormat) };
  });
}

/** Disks of a new VM go beside those of the original, under the new name. */
export function targetsOfNewVm(manifest: Manifest, name: string): RestoreTarget[] {
  return manifest.disks.map((disk) => {
    const folder =
      disk.sourcePath !== null && isPlainAbsolute(disk.sourcePath) && !disk.sourcePath.startsWith('/dev/')
        ? dirname(disk.sourcePath)
        : DEFAULT_FOLDER;
    const format = formatOf(disk.sourceFormat);
    const safeName = name.replaceAll(/[^A-Za-z0-9._-]/g, '_').replace(/^[.-]/, '_');
    return { disk, path: join(folder, `${safeName}-${disk.target}.${format === 'raw' ? 'img' : format}`), format };
  });
}

export const formatOf = (format: string): 'qcow2' | 'raw' => (format === 'raw' ? 'raw' : 'qcow2');
const isPlainAbsolute = (path: string): boolean => isAbsolute(path) && normalize(path) === path;
