import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';
import { attribute, child, parseXml, serializeXml } from '../../libvirt/xml.ts';

/**
 * Names of the domain's snapshots that hold its memory: they belong to the disks as they were.
 * Source: libvirt docs/formatsnapshot.rst, `<memory snapshot='no|internal|external'>`
 */
export async function snapshotsWithMemory(
  libvirt: Libvirt,
  domain: Domain,
  options: { signal: AbortSignal },
): Promise<string[]> {
  const names: string[] = [];
  for (const name of await libvirt.snapshotList(domain, options)) {
    const root = parseXml(await libvirt.snapshotXml(domain, name, options), 'domainsnapshot');
    if ((attribute(child(root, 'memory'), 'snapshot') ?? 'no') !== 'no') names.push(name);
  }
  return names;
}

/** Images that the domain's snapshots go back to: none of them may go away. */
export async function imagesOfSnapshots(
  libvirt: Libvirt,
  domain: Domain,
  options: { signal: AbortSignal },
): Promise<Set<string>> {
  const images = new Set<string>();
  for (const name of await libvirt.snapshotList(domain, options)) {
    const definition = child(parseXml(await libvirt.snapshotXml(domain, name, options), 'domainsnapshot'), 'domain');
    if (definition === undefined) continue;
    for (const { sourcePath } of parseDomainXml(serializeXml(definition)).disks) {
      if (sourcePath !== null) images.add(sourcePath);
    }
  }
  return images;
}
