import { attribute, child, children, DomainXmlError, type Element, parseXml, serializeXml } from './xml.ts';

/** What QEMU does when the guest's writes to a disk, or its reads, fail; null = its default. */
export interface IoErrorPolicy {
  write: string | null;
  read: string | null;
}

/** By the path of the disk's image. */
export type IoErrorPolicies = Readonly<Record<string, IoErrorPolicy>>;

/**
 * The same domain, its images layered on these chains of qcow2 files, nearest first: QEMU opens these and no others,
 * whatever names the files themselves hold. libvirt gives the files to nobody: they keep owner and label. A read or write
 * that fails stops the guest instead of reaching it as an error.
 * @param chains by the path of the disk's image
 * @throws DomainXmlError when a disk has no such image
 */
export function layerOnFiles(xml: string, chains: Readonly<Record<string, readonly string[]>>): string {
  const root = parseXml(xml, 'domain');
  for (const [image, files] of Object.entries(chains)) {
    const disk = diskOf(root, image);
    const driver = ensure(disk, 'driver', 'source');
    driver.setAttribute('type', 'qcow2');
    driver.setAttribute('error_policy', 'stop');
    driver.setAttribute('rerror_policy', 'stop');
    for (const former of children(disk, 'backingStore')) former.parentNode?.removeChild(former);
    insertAfter(child(disk, 'source'), backingStore(disk, files));
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

/** Undoes `layerOnFiles` for images that depend on nothing any more. Images that the domain has no more are passed over. */
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

/** An empty <backingStore/> ends the chain: libvirt asks the last file for no name. */
function backingStore(disk: Element, files: readonly string[]): Element {
  const make = (name: string, attributes: Record<string, string> = {}): Element => {
    const made = disk.ownerDocument?.createElement(name);
    if (made === undefined) throw new DomainXmlError(`cannot add <${name}>`);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  return files.toReversed().reduce((beneath, file) => {
    const store = make('backingStore', { type: 'file' });
    const source = make('source', { file });
    for (const model of ['dac', 'selinux']) source.appendChild(make('seclabel', { model, relabel: 'no' }));
    store.appendChild(make('format', { type: 'qcow2' }));
    store.appendChild(source);
    store.appendChild(beneath);
    return store;
  }, make('backingStore'));
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
