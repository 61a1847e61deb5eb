import { DomainXmlError } from './domain-xml.ts';
import {
  attribute,
  child,
  children,
  escapeXml,
  parseXml,
  removeElement,
  serializeXml,
  text,
  type Element,
} from './xml.ts';

/** What a new disk device is; all else is libvirt's choice. */
export interface NewDisk {
  path: string;
  format: 'qcow2' | 'raw';
  target: string;
  bus: string;
  serial: string | null;
  wwn: string | null;
  /** As the disk had them where it came from; what is not known is left out. */
  driver?: Readonly<Record<string, string>>;
}

/** Attributes of a disk's `<driver>` that say how its image is used, and their values. Source: libvirt docs/formatdomain.rst */
const DRIVER_VALUES: Readonly<Record<string, readonly string[]>> = {
  cache: ['default', 'none', 'writethrough', 'writeback', 'directsync'],
  io: ['native', 'threads', 'io_uring'],
  discard: ['ignore', 'unmap'],
  detect_zeroes: ['off', 'on', 'unmap'],
};

/** XML of a disk device that is a file. Its format is said, so that no bytes of the file are taken for a header. */
export function newDiskXml({ path, format, target, bus, serial, wwn, driver = {} }: NewDisk): string {
  const attributes = Object.entries(driver)
    .filter(([name, value]) => DRIVER_VALUES[name]?.includes(value) === true)
    .map(([name, value]) => ` ${name}='${value}'`);
  return [
    `<disk type='file' device='disk'>`,
    `<driver name='qemu' type='${format}'${attributes.join('')}/>`,
    `<source file='${escapeXml(path)}'/>`,
    `<target dev='${escapeXml(target)}' bus='${escapeXml(bus)}'/>`,
    ...(serial === null ? [] : [`<serial>${escapeXml(serial)}</serial>`]),
    ...(wwn === null ? [] : [`<wwn>${escapeXml(wwn)}</wwn>`]),
    '</disk>',
  ].join('');
}

/** How the disk's image was used: the attributes of its `<driver>`. */
export function driverOf(domainXml: string, target: string): Record<string, string> {
  const driver = child(diskAt(domainXml, target), 'driver');
  return Object.fromEntries([...(driver?.attributes ?? [])].map(({ name, value }) => [name, value]));
}

/**
 * The disk of a domain as a device of its own, on another file: serial number, bus, address and the rest as they were.
 * @param keep `address`: where the guest finds it; libvirt refuses one that is taken
 */
export function movedDiskXml(
  domainXml: string,
  target: string,
  changes: { path: string; format: 'qcow2' | 'raw'; target: string },
  keep: { address: boolean },
): string {
  const disk = diskAt(domainXml, target);
  for (const stale of ['source', 'backingStore', 'mirror', 'alias', 'transient', 'auth', 'encryption']) {
    for (const element of children(disk, stale)) removeElement(element);
  }
  if (!keep.address) for (const name of ['address', 'boot']) children(disk, name).forEach(removeElement);
  disk.setAttribute('type', 'file');
  disk.setAttribute('device', 'disk');
  for (const name of ['snapshot', 'rawio', 'sgio']) disk.removeAttribute(name);
  const place = child(disk, 'target');
  place?.setAttribute('dev', changes.target);
  const source = disk.ownerDocument?.createElement('source');
  const driver = child(disk, 'driver') ?? disk.ownerDocument?.createElement('driver');
  if (source === undefined || driver === undefined || place === undefined) {
    throw new DomainXmlError(`disk ${target} cannot be written anew`);
  }
  source.setAttribute('file', changes.path);
  driver.setAttribute('name', 'qemu');
  driver.setAttribute('type', changes.format);
  disk.insertBefore(driver, place);
  disk.insertBefore(source, place);
  return serializeXml(disk);
}

/** The domain's disk on this file, as it stands in its XML; undefined when it has none. */
export function diskOnFile(domainXml: string, path: string): { target: string; xml: string } | undefined {
  const found = disksOf(domainXml).find((disk) => attribute(child(disk, 'source'), 'file') === path);
  const target = attribute(child(found, 'target'), 'dev');
  return found === undefined || target === null ? undefined : { target, xml: serializeXml(found) };
}

/**
 * How many more disks a running machine takes on its PCI buses; undefined where that cannot be told from its XML. On
 * i440fx any free slot of the root bus takes a device; on q35 an empty root port.
 */
export function freePciSlots(liveXml: string): number | undefined {
  const root = parseXml(liveXml, 'domain');
  const devices = children(child(root, 'devices'));
  const controllers = devices.filter(
    (element) => element.tagName === 'controller' && attribute(element, 'type') === 'pci',
  );
  if (controllers.length === 0) return undefined;
  const used = new Set(
    devices
      .map((element) => child(element, 'address'))
      .filter((address) => attribute(address, 'type') === 'pci')
      .map((address) => `${Number(attribute(address, 'bus'))}.${Number(attribute(address, 'slot'))}`),
  );
  let free = 0;
  for (const controller of controllers) {
    const bus = Number(attribute(controller, 'index'));
    const slots = HOTPLUG_SLOTS[attribute(controller, 'model') ?? ''] ?? [];
    free += slots.filter((slot) => !used.has(`${bus}.${slot}`)).length;
  }
  return free;
}

const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, n) => first + n);

/** Slots of each kind of bus that take a device while the machine runs. */
const HOTPLUG_SLOTS: Readonly<Record<string, readonly number[]>> = {
  'pci-root': range(2, 31), // 0 is the host bridge, 1 the south bridge
  'pci-bridge': range(1, 31),
  'pcie-root-port': [0],
  'pcie-switch-downstream-port': [0],
};

function diskAt(domainXml: string, target: string): Element {
  const found = disksOf(domainXml).find((disk) => attribute(child(disk, 'target'), 'dev') === target);
  if (found === undefined) throw new DomainXmlError(`the domain has no disk ${target}`);
  return found;
}

const disksOf = (domainXml: string): Element[] => children(child(parseXml(domainXml, 'domain'), 'devices'), 'disk');

/** Controllers of a kind, by their models: `virtio-scsi`. */
export const controllerModels = (domainXml: string, type: string): string[] =>
  children(child(parseXml(domainXml, 'domain'), 'devices'), 'controller')
    .filter((element) => attribute(element, 'type') === type)
    .map((element) => attribute(element, 'model') ?? text(element) ?? '');
