import {
  attribute,
  child,
  children,
  DomainXmlError,
  type Element,
  parseXml,
  removeElement,
  serializeXml,
} from './xml.ts';

/** Where a disk's content lies from now on. */
export interface DiskSource {
  path: string;
  /** Default: as it was. */
  format?: string;
  /** Default `file`. */
  type?: 'file' | 'block';
}

export interface DomainXmlChanges {
  name?: string;
  /** Also where the firmware tells it to the guest. */
  uuid?: string;
  /** `drop`: libvirt makes new ones; else one for each interface, in their order. */
  macs?: 'drop' | readonly string[];
  /** By target. Each must be there; what its image is layered on is forgotten. */
  disks?: Readonly<Record<string, DiskSource>>;
  /** Targets of disks to leave out. */
  removeDisks?: readonly string[];
  /** Forgets what images are layered on and where block jobs copied to: libvirt reads it from the images at start. */
  removeBackingStores?: boolean;
  /** Null: libvirt chooses the path, and makes the file from its template. */
  nvramPath?: string | null;
  /** Where the domain has a generation id, libvirt makes a new one: the guest learns that it goes on from another state. */
  newGenerationId?: boolean;
  /** Unplugs every network cable. */
  linksDown?: boolean;
}

/** The same domain with these changes and no others. Throws DomainXmlError when a change has nothing to be made to. */
export function rewriteDomainXml(xml: string, changes: DomainXmlChanges): string {
  const root = parseXml(xml, 'domain');
  const devices = child(root, 'devices');
  const disks = children(devices, 'disk');
  const interfaces = children(devices, 'interface');

  if (changes.name !== undefined) setText(existing(root, 'name'), changes.name);
  if (changes.uuid !== undefined) setUuid(root, changes.uuid);
  for (const target of changes.removeDisks ?? []) removeElement(diskOf(disks, target));
  for (const [target, source] of Object.entries(changes.disks ?? {})) setSource(diskOf(disks, target), source);
  if (changes.removeBackingStores === true) {
    for (const disk of disks) removeBackingStore(disk);
  }
  if (changes.nvramPath !== undefined) setNvram(child(root, 'os'), changes.nvramPath);
  if (changes.macs !== undefined) setMacs(interfaces, changes.macs);
  if (changes.newGenerationId === true) {
    for (const id of children(root, 'genid')) setText(id, '');
  }
  if (changes.linksDown === true) {
    for (const element of interfaces) ensure(element, 'link').setAttribute('state', 'down');
  }
  return serializeXml(root);
}

/** libvirt refuses a domain whose SMBIOS names another UUID than it has. */
function setUuid(root: Element, uuid: string): void {
  setText(ensure(root, 'uuid'), uuid);
  for (const system of children(root, 'sysinfo').flatMap((sysinfo) => children(sysinfo, 'system'))) {
    for (const entry of children(system, 'entry')) {
      if (attribute(entry, 'name') === 'uuid') setText(entry, uuid);
    }
  }
}

function setSource(disk: Element, { path, format, type = 'file' }: DiskSource): void {
  disk.setAttribute('type', type);
  const source = ensure(disk, 'source', 'target');
  // What belonged to the former place (host, protocol, pool, index, reservations, ...) must not be said of the new one.
  for (const { name } of [...source.attributes]) if (name !== 'startupPolicy') source.removeAttribute(name);
  for (const part of children(source)) if (part.tagName !== 'seclabel') removeElement(part);
  source.setAttribute(type === 'file' ? 'file' : 'dev', path);
  removeBackingStore(disk);
  if (format !== undefined) ensure(disk, 'driver', 'source').setAttribute('type', format);
}

function removeBackingStore(disk: Element): void {
  for (const stale of [...children(disk, 'backingStore'), ...children(disk, 'mirror')]) removeElement(stale);
}

function setNvram(os: Element | undefined, path: string | null): void {
  const nvram = existing(os, 'nvram');
  for (const part of [...nvram.childNodes]) nvram.removeChild(part);
  nvram.removeAttribute('type');
  if (path !== null) setText(nvram, path);
}

function setMacs(interfaces: readonly Element[], macs: 'drop' | readonly string[]): void {
  if (macs !== 'drop' && macs.length !== interfaces.length) {
    throw new DomainXmlError(`${macs.length} MAC addresses for ${interfaces.length} network interfaces`);
  }
  interfaces.forEach((element, index) => {
    const mac = macs === 'drop' ? undefined : macs[index];
    if (mac === undefined) for (const former of children(element, 'mac')) removeElement(former);
    else ensure(element, 'mac').setAttribute('address', mac);
  });
}

function diskOf(disks: readonly Element[], target: string): Element {
  const found = disks.find((disk) => attribute(child(disk, 'target'), 'dev') === target);
  if (found === undefined) throw new DomainXmlError(`the domain has no disk ${target}`);
  return found;
}

function existing(parent: Element | undefined, name: string): Element {
  const found = child(parent, name);
  if (found === undefined) throw new DomainXmlError(`the domain has no <${name}>`);
  return found;
}

/** The child of that name; made when it is missing, before the first `before` or at the end. */
function ensure(parent: Element, name: string, before?: string): Element {
  const found = child(parent, name);
  if (found !== undefined) return found;
  const made = parent.ownerDocument?.createElement(name);
  if (made === undefined) throw new DomainXmlError(`cannot add <${name}>`);
  parent.insertBefore(made, (before === undefined ? undefined : children(parent, before)[0]) ?? null);
  return made;
}

function setText(element: Element, value: string): void {
  element.textContent = value;
}
