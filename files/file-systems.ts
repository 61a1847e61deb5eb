import { HoldfastError } from '../schemas/failures.ts';
import type { Guestfish } from './guestfish.ts';
import { shownName } from './shown-name.ts';

/** A file system inside a backup. */
export interface FileSystem {
  /** `vda1` = partition 1 of disk vda, `vdb` = the whole disk, `vg0/data` = a logical volume, `md0` = a RAID. */
  name: string;
  /** `ext4`, `xfs`, `ntfs`, ...; `unknown` for what libguestfs does not know. */
  type: string;
  label: string | null;
  sizeBytes: number;
}

/** A file system with what libguestfs calls it. */
interface Mountable extends Pick<FileSystem, 'name' | 'type'> {
  device: string;
  /** Target of the disk that it lies on, alone or as a partition. */
  disk: string | undefined;
}

/** What was mounted, and where: paths of the backup begin there. */
export interface Mount {
  mountpoint: string;
  name: string;
  type: string;
}

/** Not file systems, or of no use by themselves. */
const NOT_READ: readonly string[] = ['swap', 'unknown', 'crypto_LUKS', 'LVM2_member', 'linux_raid_member', 'BitLocker'];

/** @param targets of the disks, in the order in which they were added */
export async function listFileSystems(fish: Guestfish, targets: readonly string[]): Promise<FileSystem[]> {
  const found: FileSystem[] = [];
  for (const { device, name, type } of await mountables(fish, targets)) {
    const block = device.replace(/^btrfsvol:(\/dev\/[^/]+)\/.*$/, '$1');
    const label = lineOf(await fish.ask('vfs-label', device));
    found.push({
      name,
      type,
      label: label === '' ? null : label,
      sizeBytes: Number(lineOf(await fish.ask('blockdev-getsize64', block))),
    });
  }
  return found;
}

/**
 * Mounts what paths are meant of, read-only: the file system that is named, the only one of a disk, the only one of all,
 * or those of the operating system that is found, as it mounts them itself.
 * @throws HoldfastError FileSystemNotFound, FilesNotReadable
 */
export async function mountFileSystems(
  fish: Guestfish,
  targets: readonly string[],
  wanted: { fileSystem?: string | undefined; disk?: string | undefined },
): Promise<Mount[]> {
  const named = await deviceOf(fish, targets, wanted.fileSystem);
  if (named !== undefined) return await mountOne(fish, named);
  const all = await mountables(fish, targets);
  const usable = all.filter(({ type }) => !NOT_READ.includes(type));
  const chosen = usable.filter(
    ({ name, disk }) =>
      (wanted.fileSystem === undefined || name === wanted.fileSystem) &&
      (wanted.disk === undefined || disk === wanted.disk),
  );
  const [only, ...others] = chosen;
  if (only !== undefined && others.length === 0) {
    return await mountOne(fish, only);
  }
  if (only !== undefined && wanted.fileSystem === undefined && wanted.disk === undefined) {
    const mounts = await mountSystem(fish, usable);
    if (mounts !== undefined) return mounts;
  }
  const known = all.map(({ name, type }) => `${name} (${type})`).join(', ') || 'none';
  const asked = wanted.fileSystem ?? wanted.disk;
  throw new HoldfastError(
    'FileSystemNotFound',
    only === undefined
      ? `the backup has no readable file system${asked === undefined ? '' : ` ${asked}`}; there are: ${known}`
      : `several file systems could be meant: choose one with --filesystem; there are: ${known}`,
  );
}

/** A block device by its name, found without looking for file systems on all of them, which takes much longer. */
async function deviceOf(
  fish: Guestfish,
  targets: readonly string[],
  name: string | undefined,
): Promise<Mountable | undefined> {
  if (name === undefined) return undefined;
  for (const question of ['list-partitions', 'lvs', 'list-devices']) {
    for (const device of lines(await fish.ask(question))) {
      const place = placeOf(device, targets);
      if (place.name === name) return { device, ...place, type: lineOf(await fish.ask('vfs-type', device)) };
    }
  }
  return undefined;
}

async function mountOne(fish: Guestfish, { device, name, type }: Mountable): Promise<Mount[]> {
  await fish.ask('mount-ro', device, '/');
  return [{ mountpoint: '/', name, type }];
}

/** As the one operating system on the disks mounts them; undefined when there is none, or several. */
async function mountSystem(fish: Guestfish, usable: readonly Mountable[]): Promise<Mount[] | undefined> {
  const [root, ...others] = lines(await fish.ask('inspect-os'));
  if (root === undefined || others.length > 0) return undefined;
  const mounts: Mount[] = [];
  for (const line of lines(await fish.ask('inspect-get-mountpoints', root))) {
    const [, mountpoint, device] = /^(\/.*): (\S+)$/.exec(line) ?? [];
    const found = usable.find((each) => each.device === device);
    if (mountpoint !== undefined && found !== undefined) {
      mounts.push({ mountpoint, name: found.name, type: found.type });
    }
  }
  mounts.sort((a, b) => a.mountpoint.length - b.mountpoint.length); // what lies in another comes after it
  for (const { mountpoint, name } of mounts) {
    const device = usable.find((each) => each.name === name)?.device ?? '';
    await fish.ask('mount-ro', device, mountpoint);
  }
  return mounts[0]?.mountpoint === '/' ? mounts : undefined;
}

async function mountables(fish: Guestfish, targets: readonly string[]): Promise<Mountable[]> {
  return lines(await fish.ask('list-filesystems')).flatMap((line) => {
    const [, device, type] = /^(\S+): (\S+)$/.exec(line) ?? [];
    if (device === undefined || type === undefined) return [];
    return [{ device, type: shownName(Buffer.from(type)), ...placeOf(device, targets) }];
  });
}

/** libguestfs calls the disks sda, sdb, ... in the order in which it got them. */
function placeOf(device: string, targets: readonly string[]): { name: string; disk: string | undefined } {
  const path = device.replace(/^(btrfsvol:)?\/dev\/(mapper\/)?/, '');
  const [, letters, rest = ''] = /^sd([a-z]+)(\d*(?:\/.*)?)$/.exec(path) ?? [];
  const disk = letters === undefined ? undefined : targets[diskIndex(letters)];
  return { name: shownName(Buffer.from(disk === undefined ? path : `${disk}${rest}`)), disk };
}

/** `a` → 0, `z` → 25, `aa` → 26: how Linux counts disks of one kind. */
const diskIndex = (letters: string): number =>
  Buffer.from(letters).reduce((sum, letter) => sum * 26 + (letter - 0x60), 0) - 1;

const lines = (output: Buffer): string[] =>
  output
    .toString()
    .split('\n')
    .filter((line) => line !== '');

const lineOf = (output: Buffer): string => shownName(output.subarray(0, output.at(-1) === 0x0a ? -1 : undefined));
