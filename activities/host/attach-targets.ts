import { controllerModels } from '../../libvirt/disk-xml.ts';
import { parseDomainXml, type DomainDefinition, type DomainDisk } from '../../libvirt/domain-xml.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { diskTarget } from '../../schemas/names.ts';

/** How disks of a bus are called. Source: libvirt docs/formatdomain.rst, "Hard drives, floppy disks, CDROMs" */
const PREFIXES: Readonly<Record<string, string>> = {
  virtio: 'vd',
  scsi: 'sd',
  sata: 'sd',
  usb: 'sd',
  ide: 'hd',
  xen: 'xvd',
};
/** Buses that take a disk while the machine runs. Source: libvirt src/qemu/qemu_hotplug.c */
const HOTPLUG = ['virtio', 'scsi', 'usb'];
/** `vda` to `vdzz`: libvirt counts on, but no VM has so many. */
const MAX_TARGETS = 26 + 26 * 26;

/** A VM as it is defined, and as it runs if it does. */
export interface AttachableVm {
  inactiveXml: string;
  liveXml: string | null;
}

/**
 * The bus for one more disk: as it was where that is possible. A running machine takes virtio and USB, SCSI only where
 * it has a controller that the guest's driver for the disk goes with.
 */
export function busFor({ inactiveXml, liveXml }: AttachableVm, wanted: string | null): string {
  const known = wanted !== null && PREFIXES[wanted] !== undefined ? wanted : 'virtio';
  if (liveXml === null) return known;
  const hasScsi = controllerModels(liveXml, 'scsi').length > 0;
  if (HOTPLUG.includes(known) && (known !== 'scsi' || hasScsi)) return known;
  const buses = parseDomainXml(inactiveXml).disks.map(({ bus }) => bus);
  return !buses.includes('virtio') && hasScsi ? 'scsi' : 'virtio';
}

/**
 * A target of the bus that no disk of the VM has.
 * @param wanted taken as it is when it is free
 * @param isAsked whether a person named it: then no other will do
 * @throws HoldfastError DiskNotAttachable
 */
export function freeTarget(
  vmName: string,
  disks: readonly Pick<DomainDisk, 'target'>[],
  { bus, wanted, isAsked }: { bus: string; wanted: string | null; isAsked: boolean },
): string {
  const taken = new Set(disks.map(({ target }) => target));
  const prefix = PREFIXES[bus] ?? 'vd';
  if (wanted !== null && isAsked) {
    if (taken.has(wanted)) {
      throw new HoldfastError('DiskNotAttachable', `VM ${vmName} has a disk ${wanted} already; name another target`);
    }
    if (!wanted.startsWith(prefix)) {
      throw new HoldfastError('DiskNotAttachable', `a disk on ${bus} is called ${prefix}…, not ${wanted}`);
    }
    return wanted;
  }
  if (wanted?.startsWith(prefix) === true && !taken.has(wanted)) return wanted;
  for (let index = 0; index < MAX_TARGETS; index += 1) {
    const target = `${prefix}${letters(index)}`;
    if (!taken.has(target) && diskTarget.safeParse(target).success) return target;
  }
  throw new HoldfastError('DiskNotAttachable', `VM ${vmName} has no free target on ${bus}`);
}

/** a, b, …, z, aa, ab, … */
const letters = (index: number): string =>
  (index < 26 ? '' : letters(Math.floor(index / 26) - 1)) + String.fromCodePoint(97 + (index % 26));

/** Guests tell disks apart by these: one that another disk of the VM has is changed, or left out. */
export function identityFor(
  definitions: readonly DomainDefinition[],
  { serial, wwn }: { serial: string | null; wwn: string | null },
  { backupId, disk }: { backupId: string; disk: string },
): { serial: string | null; wwn: string | null } {
  const disks = definitions.flatMap((definition) => definition.disks);
  const taken = (value: string): boolean => disks.some((each) => each.serial === value);
  // virtio shows a guest the first twenty characters.
  const isSeenAs = (value: string): boolean => disks.some((each) => each.serial?.slice(0, 20) === value.slice(0, 20));
  const own = [
    `hf-${backupId.slice(0, 8)}-${disk}`.slice(0, 20),
    ...Array.from({ length: 99 }, (_, n) => `hf-${backupId.slice(0, 8)}-${n}`),
  ];
  return {
    serial: serial === null || !isSeenAs(serial) ? serial : (own.find((each) => !taken(each)) ?? null),
    wwn: wwn === null || disks.some((each) => each.wwn === wwn) ? null : wwn,
  };
}

/** `web-1-vda-3f2c9a41.qcow2`: what the file holds, for who finds it. */
export const attachedFileName = (vm: string, disk: string, backupId: string, format: 'qcow2' | 'raw'): string =>
  `${vm.replaceAll(/[^A-Za-z0-9._-]/g, '_').replace(/^[.-]/, '_')}-${disk}-${backupId.slice(0, 8)}.${format === 'raw' ? 'img' : format}`;
