import { attribute, child, children, DomainXmlError, type Element, parseXml, serializeXml, text } from './xml.ts';

export { DomainXmlError } from './xml.ts';

export interface BackingImage {
  sourceType: string;
  /** Null when it is neither a file nor a block device. */
  path: string | null;
  format: string | null;
}

export interface DomainDisk {
  /** `vda` */
  target: string;
  bus: string | null;
  device: 'disk' | 'cdrom' | 'floppy' | 'lun';
  /** `file`, `block`, `network`, `volume`, ... */
  sourceType: string;
  /** Path of the file or block device; null for other sources and for an empty drive. */
  sourcePath: string | null;
  /** `raw` where the XML does not say, as in libvirt. */
  format: string;
  serial: string | null;
  wwn: string | null;
  readOnly: boolean;
  shareable: boolean;
  transient: boolean;
  /** A drive without a medium. */
  empty: boolean;
  /** Name of the device in QEMU; only in the XML of a running domain. */
  alias: string | null;
  /** What the image is layered on, nearest first. Known of a running domain; else only if its XML was written so. */
  backingChain: BackingImage[];
  /** A block job copies to here at the moment. */
  hasMirror: boolean;
}

export interface DomainInterface {
  type: string;
  mac: string | null;
  /** `virtio` */
  model: string | null;
  /** The network, bridge or device it is attached to. */
  source: string | null;
  /** Its device on the host, of a running domain. */
  target: string | null;
  linkDown: boolean;
}

export interface DomainDefinition {
  name: string;
  uuid: string;
  /** `kvm`, `qemu` */
  type: string;
  /** -1 of a domain that does not run. */
  id: number;
  machine: string | null;
  arch: string | null;
  emulator: string | null;
  memoryBytes: number;
  vcpus: number;
  disks: DomainDisk[];
  interfaces: DomainInterface[];
  /** Files of the host that it boots from, past its disks. */
  kernel: string | null;
  initrd: string | null;
  /** The file of UEFI variables and what it was made from. */
  nvram: { path: string | null; template: string | null; format: string | null } | null;
  tpm: {
    /** `emulator`: state kept by libvirt; `passthrough`, `external`: not ours to copy. */
    backend: string;
    version: string | null;
    persistentState: boolean;
    /** Secret the state is encrypted with; a copy is of no use without it. */
    encryptionSecret: string | null;
  } | null;
  hasAgentChannel: boolean;
  /** Whether an agent listens in the guest; null when the XML does not tell: the domain does not run. */
  isAgentConnected: boolean | null;
  /** What other programs noted in it: elements by namespace. */
  metadata: Record<string, string>;
}

const NAME = /^[^/\n]+$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
/** libvirt takes no other: it becomes part of QEMU's node names and of file names. */
const TARGET = /^[a-z]{2,8}[a-z0-9]{0,8}$/;
const AGENT_CHANNEL = 'org.qemu.guest_agent.0';

/** What a domain's XML says. Throws DomainXmlError on what libvirt would not have written. */
export function parseDomainXml(xml: string): DomainDefinition {
  const root = parseXml(xml, 'domain');
  const os = child(root, 'os');
  const osType = child(os, 'type');
  const devices = child(root, 'devices');
  const channel = children(devices, 'channel')
    .map((element) => child(element, 'target'))
    .find((target) => attribute(target, 'name') === AGENT_CHANNEL);
  const channelState = attribute(channel, 'state');
  return {
    name: required(text(child(root, 'name')), NAME, 'name'),
    uuid: required(text(child(root, 'uuid'))?.toLowerCase(), UUID, 'uuid'),
    type: attribute(root, 'type') ?? '',
    id: Number(attribute(root, 'id') ?? -1),
    machine: attribute(osType, 'machine'),
    arch: attribute(osType, 'arch'),
    emulator: text(child(devices, 'emulator')),
    memoryBytes: memoryBytes(child(root, 'memory')),
    vcpus: count(text(child(root, 'vcpu')) ?? '1', 'vcpu'),
    disks: unique(children(devices, 'disk').map(readDisk)),
    interfaces: children(devices, 'interface').map(readInterface),
    kernel: text(child(os, 'kernel')),
    initrd: text(child(os, 'initrd')),
    nvram: readNvram(child(os, 'nvram')),
    tpm: readTpm(child(devices, 'tpm')),
    hasAgentChannel: channel !== undefined,
    isAgentConnected: channelState === null ? null : channelState === 'connected',
    metadata: Object.fromEntries(
      children(child(root, 'metadata')).map((element) => [element.namespaceURI ?? '', serializeXml(element)]),
    ),
  };
}

function readDisk(element: Element): DomainDisk {
  const target = child(element, 'target');
  const name = required(attribute(target, 'dev'), TARGET, 'target of a disk');
  const device = attribute(element, 'device') ?? 'disk';
  if (device !== 'disk' && device !== 'cdrom' && device !== 'floppy' && device !== 'lun') {
    throw new DomainXmlError(`disk ${name} is a "${device}", which libvirt does not know`);
  }
  const source = child(element, 'source');
  const sourceType = attribute(element, 'type') ?? 'file';
  const path = sourcePath(sourceType, source);
  const isLocal = sourceType === 'file' || sourceType === 'block';
  return {
    target: name,
    bus: attribute(target, 'bus'),
    device,
    sourceType,
    sourcePath: path,
    format: attribute(child(element, 'driver'), 'type') ?? 'raw',
    serial: text(child(element, 'serial')),
    wwn: text(child(element, 'wwn')),
    readOnly: child(element, 'readonly') !== undefined,
    shareable: child(element, 'shareable') !== undefined,
    transient: child(element, 'transient') !== undefined,
    empty: source === undefined || (isLocal && path === null),
    alias: attribute(child(element, 'alias'), 'name'),
    backingChain: readBackingChain(child(element, 'backingStore')),
    hasMirror: child(element, 'mirror') !== undefined,
  };
}

/** An empty <backingStore/> ends the chain. */
function readBackingChain(top: Element | undefined): BackingImage[] {
  const chain: BackingImage[] = [];
  for (let store = top; store !== undefined && children(store).length > 0; store = child(store, 'backingStore')) {
    const sourceType = attribute(store, 'type') ?? 'file';
    const format = attribute(child(store, 'format'), 'type');
    chain.push({ sourceType, path: sourcePath(sourceType, child(store, 'source')), format });
  }
  return chain;
}

function sourcePath(sourceType: string, source: Element | undefined): string | null {
  const path =
    sourceType === 'file' ? attribute(source, 'file') : sourceType === 'block' ? attribute(source, 'dev') : null;
  return path === '' ? null : path;
}

function readInterface(element: Element): DomainInterface {
  const type = attribute(element, 'type') ?? '';
  const source = child(element, 'source');
  return {
    type,
    mac: attribute(child(element, 'mac'), 'address')?.toLowerCase() ?? null,
    model: attribute(child(element, 'model'), 'type'),
    source: attribute(source, type === 'direct' ? 'dev' : type),
    target: attribute(child(element, 'target'), 'dev'),
    linkDown: attribute(child(element, 'link'), 'state') === 'down',
  };
}

/** Written as text, or since libvirt 8.5 as a source with a type. */
function readNvram(element: Element | undefined): DomainDefinition['nvram'] {
  if (element === undefined) return null;
  const source = child(element, 'source');
  const path = source === undefined ? text(element) : sourcePath(attribute(element, 'type') ?? 'file', source);
  return {
    path: path === '' ? null : path,
    template: attribute(element, 'template'),
    format: attribute(element, 'format'),
  };
}

function readTpm(element: Element | undefined): DomainDefinition['tpm'] {
  const backend = child(element, 'backend');
  if (backend === undefined) return null;
  return {
    backend: attribute(backend, 'type') ?? '',
    version: attribute(backend, 'version'),
    persistentState: attribute(backend, 'persistent_state') === 'yes',
    encryptionSecret: attribute(child(backend, 'encryption'), 'secret'),
  };
}

/** libvirt's units; K, M, ... are binary, KB, MB, ... are decimal; KiB where none is named. */
const UNIT_BYTES: Record<string, number> = {
  b: 1,
  bytes: 1,
  kb: 1e3,
  k: 2 ** 10,
  kib: 2 ** 10,
  mb: 1e6,
  m: 2 ** 20,
  mib: 2 ** 20,
  gb: 1e9,
  g: 2 ** 30,
  gib: 2 ** 30,
  tb: 1e12,
  t: 2 ** 40,
  tib: 2 ** 40,
};

function memoryBytes(element: Element | undefined): number {
  const unit = attribute(element, 'unit') ?? 'KiB';
  const factor = UNIT_BYTES[unit.toLowerCase()];
  if (factor === undefined) throw new DomainXmlError(`<memory> has the unit "${unit}", which libvirt does not know`);
  return count(text(element) ?? '0', 'memory') * factor;
}

function count(value: string, name: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new DomainXmlError(`<${name}> is "${value}", not a number`);
  return Number(value);
}

function required(value: string | null | undefined, pattern: RegExp, name: string): string {
  if (value === null || value === undefined || value === '')
    throw new DomainXmlError(`the domain's ${name} is missing`);
  if (!pattern.test(value))
    throw new DomainXmlError(`the domain's ${name} is "${value}", which libvirt does not accept`);
  return value;
}

function unique(disks: DomainDisk[]): DomainDisk[] {
  const targets = new Set<string>();
  for (const { target } of disks) {
    if (targets.has(target)) throw new DomainXmlError(`two disks have the target ${target}`);
    targets.add(target);
  }
  return disks;
}
