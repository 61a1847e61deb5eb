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

export interface TargetsInPlace {
  /** Disks of the backup that the VM has. */
  present: RestoreTarget[];
  /** Disks of the backup that the VM has no more. */
  gone: ManifestDisk[];
  /** Disks of the VM that stay as they are. */
  untouched: DomainDisk[];
}

/**
 * For each disk of the backup, the disk of the present VM that it belongs to: by serial, else by place, else by target.
 * @param only targets, in the backup, of the disks that are wanted; null = all
 * @param sizes what the guest sees of the VM's disks, by target, in bytes, as far as known
 */
export function targetsInPlace(
  manifest: Manifest,
  vm: DomainDefinition,
  only: readonly string[] | null = null,
  sizes: ReadonlyMap<string, number> = new Map(),
): TargetsInPlace {
  const unknown = (only ?? []).filter((target) => !manifest.disks.some((disk) => disk.target === target));
  if (unknown.length > 0) {
    const there = manifest.disks.map(({ target }) => target).join(', ');
    throw new HoldfastError('DiskMismatch', `backup ${manifest.id} has no disk ${unknown.join(', ')}; it has ${there}`);
  }
  const own = vm.disks.filter(({ device, empty }) => device === 'disk' && !empty);
  const matches = new Map<ManifestDisk, DomainDisk>();
  // The surest mark first, for all disks, also those that are not wanted: else one that lost its place takes the place of another.
  for (const isSame of MARKS) {
    for (const disk of manifest.disks.filter((each) => !matches.has(each))) {
      const taken = [...matches.values()];
      const match = own.find((each) => !taken.includes(each) && isSame(disk, each, sizes.get(each.target)));
      if (match !== undefined) matches.set(disk, match);
    }
  }
  const wanted = manifest.disks.filter(({ target }) => only === null || only.includes(target));
  const present = wanted.flatMap((disk) => {
    const match = matches.get(disk);
    return match === undefined ? [] : [targetOf(disk, match, vm)];
  });
  const replaced = wanted.map((disk) => matches.get(disk));
  return {
    present,
    gone: wanted.filter((disk) => !matches.has(disk)),
    untouched: own.filter((disk) => !replaced.includes(disk)),
  };
}

function targetOf(disk: ManifestDisk, match: DomainDisk, vm: DomainDefinition): RestoreTarget {
  if (match.sourceType !== 'file' || match.sourcePath === null) {
    throw new HoldfastError(
      'DiskMismatch',
      `disk ${match.target} of VM ${vm.name} is no file (${match.sourceType}): nothing can be written beside it; ` +
        'restore as a new VM with --as',
    );
  }
  if (match.backingChain.length > 0) {
    throw new HoldfastError(
      'DiskMismatch',
      `disk ${match.target} of VM ${vm.name} is defined as a layer on ${match.backingChain[0]?.path ?? 'another image'}; ` +
        'a restored disk would be read through it: restore as a new VM with --as',
    );
  }
  return { disk, path: match.sourcePath, format: formatOf(match.format) };
}

/** Where a disk lay that the VM has no more; undefined when it was no file. */
export const formerPathOf = ({ sourcePath }: ManifestDisk): string | undefined =>
  sourcePath !== null && isPlainAbsolute(sourcePath) && !NOT_FOR_DISKS.test(sourcePath) ? sourcePath : undefined;

/** No disk that is a file belongs there. */
export const NOT_FOR_DISKS = /^\/(dev|proc|sys)\//;

const MARKS: ((disk: ManifestDisk, present: DomainDisk, sizeBytes: number | undefined) => boolean)[] = [
  (disk, { serial }) => disk.serial !== null && serial === disk.serial,
  (disk, { sourcePath, serial }) =>
    disk.sourcePath !== null && sourcePath === disk.sourcePath && agrees(serial, disk.serial),
  // The surest that is left of a disk that was moved. One of another size or with another serial number took its place.
  (disk, { target, serial }, sizeBytes) =>
    target === disk.target &&
    serial === disk.serial &&
    (sizeBytes === undefined || sizeBytes === disk.virtualSizeBytes),
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
    const folder = dirname(formerPathOf(disk) ?? join(DEFAULT_FOLDER, 'x'));
    const format = formatOf(disk.sourceFormat);
    const safeName = name.replaceAll(/[^A-Za-z0-9._-]/g, '_').replace(/^[.-]/, '_');
    return { disk, path: join(folder, `${safeName}-${disk.target}.${format === 'raw' ? 'img' : format}`), format };
  });
}

export const formatOf = (format: string): 'qcow2' | 'raw' => (format === 'raw' ? 'raw' : 'qcow2');
const isPlainAbsolute = (path: string): boolean => isAbsolute(path) && normalize(path) === path;
