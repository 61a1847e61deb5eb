import { setTimeout as sleep } from 'node:timers/promises';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Domain, Libvirt } from '../../libvirt/libvirt.ts';

/** How long a guest may take to freeze or thaw its file systems; a hung agent must not hold up the backup. */
export const AGENT_SECONDS = 20;
/** libvirt's own default: wait for ever. */
export const NO_LIMIT = -2;
/** A little more than libvirt waits, so that the answer is libvirt's. */
export const AGENT_CALL_MS = (AGENT_SECONDS + 15) * 1000;

/**
 * Thaws the guest. An agent that hangs in its freeze takes the thaw when it is done with it, so it is asked again until
 * it confirms. Not cancellable: a frozen guest is worse than a late end. Returns whether the guest is surely not frozen.
 */
export async function thaw(libvirt: Libvirt, domain: Domain, patienceMs: number): Promise<boolean> {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    try {
      if (!(await mayBeFrozen(libvirt, domain))) return true;
      await libvirt.setAgentResponseTimeout(domain, AGENT_SECONDS);
      await libvirt.fsThaw(domain, [], { timeoutMs: AGENT_CALL_MS });
      await libvirt.setAgentResponseTimeout(domain, NO_LIMIT);
      return true;
    } catch {
      if (Date.now() > deadline) return false;
      await sleep(1000); // the agent is busy, or libvirtd is restarting: ask again
    }
  }
}

/** A guest that is off, or whose agent's port is closed, holds no freeze of ours. */
async function mayBeFrozen(libvirt: Libvirt, domain: Domain): Promise<boolean> {
  const { state } = await libvirt.state(domain);
  if (state === 'shutoff' || state === 'crashed') return false;
  return parseDomainXml(await libvirt.domainXml(domain, {})).isAgentConnected === true;
}
