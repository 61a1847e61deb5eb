import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import { fail, ok, PATIENCE, reason, warn, type Check } from './check.ts';

/** Guest agents of the running VMs: without one a backup is what a power cut would leave. */
export const checkAgents: Check = async ({ libvirt }) => {
  const connected: string[] = [];
  const silent: string[] = [];
  try {
    for (const dom of await libvirt.listDomains(PATIENCE)) {
      if ((await libvirt.state(dom, PATIENCE)).state !== 'running') continue;
      const { isAgentConnected } = parseDomainXml(await libvirt.domainXml(dom, {}, PATIENCE));
      (isAgentConnected === true ? connected : silent).push(dom.name);
    }
  } catch (error) {
    return [fail('agents', `the VMs cannot be looked at: ${reason(error)}`)];
  }
  if (connected.length + silent.length === 0) return [ok('agents', 'no VM is running')];
  if (silent.length === 0) return [ok('agents', `answer in ${connected.join(', ')}`)];
  return [
    warn(
      'agents',
      `no guest agent in ${silent.join(', ')}: their backups are crash consistent; add the channel org.qemu.guest_agent.0 and install qemu-guest-agent`,
    ),
  ];
};
