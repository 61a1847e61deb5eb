import { attribute, child, children, DomainXmlError, type Element, parseXml, serializeXml } from './xml.ts';

/** What QEMU does when the guest's writes to a disk, or its reads, fail; null = its default. */
export interface IoErrorPolicy {
  write: string | null;
  read: string | null;
}

/** By the path of the disk's image. */
export type IoErrorPolicies = Readonly<Record<string, IoErrorPolicy>>;

/** An NBD export on a unix socket. */
export interface NbdExport {
  socketPath: string;
  exportName: string;
}

/**
 * How long QEMU holds requests back while the connection to an export is lost; then they fail, which stops the guest. The
 * drivers of some guests give a request up after 30 s. libvirt knows it in versions after 9.0 and passes it over before
 * (docs/formatdomain.rst, `reconnect`): there they fail at once.
 */
const RECONNECT_SECONDS = 20;

/**
 * The same domain, its images layered on these exports, each a raw disk: QEMU opens these and no file that an image names. A read
 * or write that fails stops the guest instead of reaching it as an error.
 * @param exports by the path of the disk's image
 * @throws DomainXmlError when a disk has no such image
 */
export function layerOnExports(xml: string, exports: Readonly<Record<string, NbdExport>>): string {
  const root = parseXml(xml, 'domain');
  for (const [image, beneath] of Object.entries(exports)) {
    const disk = diskOf(root, image);
    const driver = ensure(disk, 'driver', 'source');
    driver.setAttribute('type', 'qcow2');
    driver.setAttribute('error_policy', 'stop');
    driver.setAttribute('rerror_policy', 'stop');
    for (const former of children(disk, 'backingStore')) former.parentNode?.removeChild(former);
    insertAfter(child(disk, 'source'), exportAsBackingStore(disk, beneath));
  }
  return serializeXml(root);
}

/** What the disks with these images say about failing reads and writes. */
export function ioErrorPoliciesOf(xml: string, images: readonly string[]): IoErrorPolicies {
  const root = parseXml(xml, 'domain');
  return Object.fromEntries(
    images.map((image) => {
      const driver = child(diskOf(root, image), 'driver');
      return [image, { write: attribute(driver, 'error_policy'), read: attribute(driver, 'rerror_policy') }];
    }),
  );
}

/** Undoes `layerOnExports` for images that depend on nothing any more. Images that the domain has no more are passed over. */
export function standAlone(xml: string, policies: IoErrorPolicies): string {
  const root = parseXml(xml, 'domain');
  for (const [image, { write, read }] of Object.entries(policies)) {
    const disk = findDisk(root, image);
    if (disk === undefined) continue;
    for (const store of children(disk, 'backingStore')) disk.removeChild(store);
    const driver = child(disk, 'driver');
    for (const [name, value] of [
      ['error_policy', write],
      ['rerror_policy', read],
    ] as const) {
      if (value === null) driver?.removeAttribute(name);
      else driver?.setAttribute(name, value);
    }
  }
  return serializeXml(root);
}

/** What an image lies on when that is an export. An empty <backingStore/> ends the chain: libvirt asks nothing for a name. */
export function exportAsBackingStore(disk: Element, { socketPath, exportName }: NbdExport): Element {
  const make = (name: string, attributes: Record<string, string>, ...within: Element[]): Element => {
    const made = disk.ownerDocument?.createElement(name);
    if (made === undefined) throw new DomainXmlError(`cannot add <${name}>`);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    for (const each of within) made.appendChild(each);
    return made;
  };
  return make(
    'backingStore',
    { type: 'network' },
    make('format', { type: 'raw' }),
    make(
      'source',
      { protocol: 'nbd', name: exportName },
      make('host', { transport: 'unix', socket: socketPath }),
      make('reconnect', { delay: String(RECONNECT_SECONDS) }),
    ),
    make('backingStore', {}),
  );
}

function diskOf(root: Element, image: string): Element {
  const found = findDisk(root, image);
  if (found === undefined) throw new DomainXmlError(`the domain has no disk ${image}`);
  return found;
}

const findDisk = (root: Element, image: string): Element | undefined =>
  children(child(root, 'devices'), 'disk').find((disk) => attribute(child(disk, 'source'), 'file') === image);

function ensure(parent: Element, name: string, before: string): Element {
  const found = child(parent, name);
  if (found !== undefined) return found;
  const made = parent.ownerDocument?.createElement(name);
  if (made === undefined) throw new DomainXmlError(`cannot add <${name}>`);
  parent.insertBefore(made, children(parent, before)[0] ?? null);
  return made;
}

function insertAfter(before: Element | undefined, element: Element): void {
  if (before?.parentNode == null) throw new DomainXmlError('the disk has no <source>');
  before.parentNode.insertBefore(element, before.nextSibling);
}
