import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Libvirt } from '../../libvirt/libvirt.ts';
import type { Manifest } from '../../schemas/manifest.ts';
import { powerOf } from './power.ts';

/** Running VMs of this host with a MAC address, on the same network, that the backed-up VM has too; in words. */
export async function sharedMacs(
  libvirt: Libvirt,
  manifest: Manifest,
  options: { signal: AbortSignal },
): Promise<string[]> {
  const kept = parseDomainXml(manifest.domainXml.inactive).interfaces;
  const warnings: string[] = [];
  for (const domain of await libvirt.listDomains(options)) {
    if (powerOf((await libvirt.state(domain, options)).state) === 'shutoff') continue;
    const { interfaces } = parseDomainXml(await libvirt.domainXml(domain, {}, options));
    for (const { mac, source } of interfaces) {
      if (mac === null || !kept.some((each) => each.mac === mac && each.source === source)) continue;
      const where = source === null ? '' : ` on ${source}`;
      warnings.push(`VM ${domain.name} runs with the MAC address ${mac}${where}, which the restored VM has too`);
    }
  }
  return warnings;
}
