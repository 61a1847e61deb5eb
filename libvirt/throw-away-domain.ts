import { exportAsBackingStore } from './backing-chain-xml.ts';
import { attribute, child, children, DomainXmlError, type Element, parseXml, serializeXml, text } from './xml.ts';

/** Where a disk of the throw-away domain comes from: a qcow2 layer of its own over an NBD export that nobody can write to. */
export interface ThrowAwayDisk {
  target: string;
  overlayPath: string;
  /** Unix socket of the NBD server. */
  socketPath: string;
  exportName: string;
}

export interface ThrowAwayChanges {
  name: string;
  uuid: string;
  /** As many as there are interfaces; more are left over. */
  macs: readonly string[];
  disks: readonly ThrowAwayDisk[];
  /** Where its UEFI variables lie, if it has any; libvirt makes the file from its template when there is none. */
  nvramPath: string;
  /** Copies of the files it boots from, where it boots from files: libvirt gives them to QEMU's user. */
  kernelPath: string | null;
  initrdPath: string | null;
}

export interface ThrowAwayDomain {
  xml: string;
  hasAgentChannel: boolean;
  hasScreen: boolean;
  hasTpm: boolean;
  /** What the original has and this one does not, in words. */
  left: string[];
}

/** Parts of a domain that name nothing of the host. All others are left out, `qemu:commandline` above all. */
const KEPT = new Set([
  'name',
  'uuid',
  'memory',
  'vcpu',
  'cpu',
  'os',
  'features',
  'clock',
  'devices',
  'sysinfo',
  'genid',
]);
/** Parts of `os`; kernel, initrd and loader are files of the host that the VM boots from. */
const KEPT_OS = new Set([
  'type',
  'firmware',
  'loader',
  'nvram',
  'boot',
  'bootmenu',
  'smbios',
  'bios',
  'kernel',
  'initrd',
  'cmdline',
]);
const KEPT_DISK = ['serial', 'wwn', 'vendor', 'product', 'boot', 'blockio', 'geometry', 'address'];
const KEPT_CONTROLLERS = new Set(['scsi', 'sata', 'ide', 'usb', 'pci', 'virtio-serial']);
/** Shown without a display of the host; the rest becomes a plain VGA card. */
const KEPT_VIDEO = new Set(['vga', 'virtio', 'cirrus', 'bochs', 'ramfb']);
const KEPT_INPUT_BUSES = new Set(['usb', 'ps2', 'virtio']);
/** Left out without a word: nothing of the guest depends on them. */
const UNNOTED = new Set([
  'emulator',
  'graphics',
  'audio',
  'sound',
  'console',
  'parallel',
  'redirdev',
  'redirfilter',
  'smartcard',
  'watchdog',
  'panic',
  'hub',
  'lease',
]);
const AGENT_CHANNEL = 'org.qemu.guest_agent.0';

/**
 * The same guest as a domain that can harm nobody: its disks are layers of its own, its network cables are unplugged, and
 * nothing of the host but the files it boots from is in it. The definition comes out of a manifest and is not trusted: what
 * is not known to be harmless is left out.
 * @throws DomainXmlError
 */
export function throwAwayDomain(original: string, changes: ThrowAwayChanges): ThrowAwayDomain {
  const root = parseXml(original, 'domain');
  const left = new Set<string>();
  keepAttributes(root, ['type']);
  for (const part of children(root)) if (!KEPT.has(part.tagName)) drop(part);
  const devices = child(root, 'devices');
  const os = child(root, 'os');
  if (devices === undefined || os === undefined) throw new DomainXmlError('the domain has no <devices> or no <os>');

  setText(need(root, 'name'), changes.name);
  setText(need(root, 'uuid'), changes.uuid);
  keepAttributes(child(root, 'vcpu'), ['current']);
  for (const part of children(child(root, 'cpu'), 'numa')) drop(part);
  for (const info of children(root, 'sysinfo')) setSysinfo(info, changes.uuid);
  setBoot(os, changes);
  for (const [name, value] of [
    ['on_poweroff', 'destroy'],
    ['on_reboot', 'restart'],
    ['on_crash', 'destroy'],
  ] as const) {
    root.insertBefore(element(root, name, {}, value), devices);
  }

  const macs = [...changes.macs];
  for (const device of children(devices)) {
    const kept = keepDevice(device, changes, macs);
    if (kept !== undefined) devices.replaceChild(kept, device);
    else {
      if (!UNNOTED.has(device.tagName)) left.add(nameOf(device));
      drop(device);
    }
  }
  const present = new Set(children(devices, 'disk').map((disk) => attribute(child(disk, 'target'), 'dev')));
  for (const { target } of changes.disks) {
    if (!present.has(target)) throw new DomainXmlError(`the domain has no disk ${target}`);
  }
  return {
    xml: serializeXml(root),
    hasAgentChannel: children(devices, 'channel').length > 0,
    hasScreen: children(devices, 'video').length > 0,
    hasTpm: children(devices, 'tpm').length > 0,
    left: [...left].toSorted(),
  };
}

/** The device as the throw-away domain has it; undefined to leave it out. */
function keepDevice(device: Element, changes: ThrowAwayChanges, macs: string[]): Element | undefined {
  switch (device.tagName) {
    case 'disk':
      return disk(device, changes.disks);
    case 'interface':
      return networkCard(device, macs);
    case 'controller':
      return controller(device);
    case 'channel':
      return agentChannel(device);
    case 'serial':
      return copy(device, { type: 'null' }, ['target', 'address']);
    case 'video':
      return screen(device);
    case 'input':
      return KEPT_INPUT_BUSES.has(attribute(device, 'bus') ?? 'ps2') &&
        attribute(device, 'type') !== 'passthrough' &&
        attribute(device, 'type') !== 'evdev'
        ? copy(device, pick(device, ['type', 'bus', 'model']), ['address'])
        : undefined;
    case 'rng': {
      const rng = copy(device, pick(device, ['model']), ['address']);
      rng.appendChild(element(device, 'backend', { model: 'random' }, '/dev/urandom'));
      return rng;
    }
    case 'memballoon':
      return copy(device, pick(device, ['model']), ['address']);
    case 'iommu':
      return copy(device, pick(device, ['model']), ['driver']);
    case 'tpm':
      return tpm(device);
    default:
      return undefined;
  }
}

function disk(device: Element, disks: readonly ThrowAwayDisk[]): Element | undefined {
  const target = child(device, 'target');
  const given = disks.find((each) => each.target === attribute(target, 'dev'));
  if (given === undefined || target === undefined) return undefined;
  const made = element(device, 'disk', { type: 'file', device: 'disk' });
  // What the guest writes is thrown away, so no write of it needs to be durable.
  made.appendChild(element(device, 'driver', { name: 'qemu', type: 'qcow2', cache: 'unsafe', discard: 'unmap' }));
  made.appendChild(element(device, 'source', { file: given.overlayPath }));
  made.appendChild(exportAsBackingStore(device, given));
  made.appendChild(element(device, 'target', pick(target, ['dev', 'bus', 'rotation_rate'])));
  for (const name of KEPT_DISK) for (const part of children(device, name)) made.appendChild(part.cloneNode(true));
  return made;
}

/** The card the guest knows, at its place, its cable unplugged. */
function networkCard(device: Element, macs: string[]): Element | undefined {
  const mac = macs.shift();
  if (mac === undefined || attribute(device, 'type') === 'hostdev' || attribute(device, 'type') === 'vdpa')
    return undefined;
  const made = element(device, 'interface', { type: 'user' });
  made.appendChild(element(device, 'mac', { address: mac }));
  const model = child(device, 'model');
  if (model !== undefined) made.appendChild(element(device, 'model', pick(model, ['type'])));
  made.appendChild(element(device, 'link', { state: 'down' }));
  for (const part of children(device, 'address')) made.appendChild(part.cloneNode(true));
  return made;
}

function controller(device: Element): Element | undefined {
  if (!KEPT_CONTROLLERS.has(attribute(device, 'type') ?? '')) return undefined;
  return copy(device, pick(device, ['type', 'index', 'model', 'ports', 'vectors']), [
    'model',
    'target',
    'master',
    'address',
    'pcihole64',
  ]);
}

function agentChannel(device: Element): Element | undefined {
  const target = child(device, 'target');
  if (attribute(target, 'name') !== AGENT_CHANNEL) return undefined;
  const made = element(device, 'channel', { type: 'unix' }); // libvirt chooses the socket
  made.appendChild(element(device, 'target', { type: attribute(target, 'type') ?? 'virtio', name: AGENT_CHANNEL }));
  for (const part of children(device, 'address')) made.appendChild(part.cloneNode(true));
  return made;
}

function screen(device: Element): Element | undefined {
  const model = child(device, 'model');
  const type = attribute(model, 'type') ?? 'vga';
  if (type === 'none') return undefined;
  const made = element(device, 'video');
  const kept = KEPT_VIDEO.has(type);
  made.appendChild(
    element(
      device,
      'model',
      kept && model !== undefined
        ? pick(model, ['type', 'vram', 'primary'])
        : { type: 'vga', ...(model === undefined ? {} : pick(model, ['primary'])) },
    ),
  );
  for (const part of children(device, 'address')) made.appendChild(part.cloneNode(true));
  return made;
}

/** An emulated one gets a copy of its state; others are hardware of the host. */
function tpm(device: Element): Element | undefined {
  const backend = child(device, 'backend');
  if (attribute(backend, 'type') !== 'emulator' || backend === undefined) return undefined;
  const made = copy(device, pick(device, ['model']), ['address']);
  const emulator = element(device, 'backend', pick(backend, ['type', 'version']));
  for (const part of children(backend, 'encryption')) emulator.appendChild(part.cloneNode(true));
  made.appendChild(emulator);
  return made;
}

function setBoot(os: Element, { nvramPath, kernelPath, initrdPath }: ThrowAwayChanges): void {
  for (const part of children(os)) if (!KEPT_OS.has(part.tagName)) drop(part);
  const nvram = child(os, 'nvram');
  if (nvram !== undefined) {
    os.replaceChild(element(os, 'nvram', pick(nvram, ['template', 'format']), nvramPath), nvram);
  }
  for (const [name, path] of [
    ['kernel', kernelPath],
    ['initrd', initrdPath],
  ] as const) {
    const file = child(os, name);
    if (file === undefined) continue;
    if (path === null) drop(file);
    else setText(file, path);
  }
}

/** libvirt refuses a domain whose SMBIOS names another UUID than it has; entries of fw_cfg may be files of the host. */
function setSysinfo(info: Element, uuid: string): void {
  if (attribute(info, 'type') !== 'smbios') {
    drop(info);
    return;
  }
  for (const entry of children(child(info, 'system'), 'entry')) {
    if (attribute(entry, 'name') === 'uuid') setText(entry, uuid);
  }
}

const nameOf = (device: Element): string => {
  if (device.tagName !== 'disk') return device.tagName;
  const kind = attribute(device, 'device') ?? 'disk';
  return `${kind} ${attribute(child(device, 'target'), 'dev') ?? ''}`;
};

/** A new element with these attributes and copies of these children. */
function copy(device: Element, attributes: Record<string, string>, parts: readonly string[]): Element {
  const made = element(device, device.tagName, attributes);
  for (const name of parts) for (const part of children(device, name)) made.appendChild(part.cloneNode(true));
  return made;
}

function pick(from: Element, names: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    names.flatMap((name) => {
      const value = attribute(from, name);
      return value === null || value === '' ? [] : [[name, value]];
    }),
  );
}

function keepAttributes(part: Element | undefined, names: readonly string[]): void {
  for (const { name } of [...(part?.attributes ?? [])]) if (!names.includes(name)) part?.removeAttribute(name);
}

function element(near: Element, name: string, attributes: Record<string, string> = {}, content?: string): Element {
  const made = near.ownerDocument?.createElement(name);
  if (made === undefined) throw new DomainXmlError(`cannot add <${name}>`);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (content !== undefined) setText(made, content);
  return made;
}

function need(parent: Element, name: string): Element {
  const found = child(parent, name);
  if (found === undefined || text(found) === null) throw new DomainXmlError(`the domain has no <${name}>`);
  return found;
}

function setText(part: Element, value: string): void {
  part.textContent = value;
}

function drop(part: Element): void {
  part.parentNode?.removeChild(part);
}
