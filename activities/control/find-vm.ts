import type { VmRecord, VmSighting } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { HostInventory } from '../host/inspect-vm.ts';
import type { ControlDependencies } from './dependencies.ts';

export const createFindVm = ({ catalog }: ControlDependencies) => ({
  /**
   * Where the catalog thinks a VM is, and which hosts to ask. `match` is null when no VM, or none on a known host, bears
   * the name.
   * @throws VmAmbiguous when several VMs of the fleet bear the name
   */
  async whereIsVm(vm: string): Promise<{ match: VmRecord | null; hinted: string[]; others: string[] }> {
    const known = await catalog.vms.findByNameOrUuid(vm);
    const seen: VmRecord[] = [];
    for (const record of known) if ((await catalog.vms.sightings(record.uuid)).length > 0) seen.push(record);
    if (seen.length > 1) {
      const list = seen.map(({ uuid, host }) => `${uuid} on ${host}`).join(', ');
      throw new HoldfastError('VmAmbiguous', `several VMs are called ${vm}: ${list}; name one by its UUID`);
    }
    const [match = null] = seen;
    const hosts = (await catalog.hosts.list()).map(({ name }) => name);
    const hinted = hosts.filter((name) => name === match?.host);
    return { match, hinted, others: hosts.filter((name) => name !== match?.host) };
  },

  /** The VM as the catalog knows it, though no host may have it any more; null when it means none, or several. */
  async knownVm(vm: string): Promise<VmRecord | null> {
    const [record = null, ...others] = await catalog.vms.findByNameOrUuid(vm);
    return others.length === 0 ? record : null;
  },

  /** Notes what a host answered when it was asked for a VM. */
  async recordAnswer(host: string, vm: string, sightings: VmSighting[]): Promise<void> {
    const seenAt = new Date().toISOString();
    await catalog.vms.recordAnswer(host, vm, sightings, seenAt);
    await catalog.hosts.upsert({ name: host, lastSeenAt: seenAt });
  },

  /** Takes over a host's whole inventory. */
  async recordInventory({ host, slots, libvirtVersion, qemuVersion, vms, seenAt }: HostInventory): Promise<void> {
    await catalog.hosts.upsert({ name: host, slots, libvirtVersion, qemuVersion, lastSeenAt: seenAt });
    await catalog.vms.recordInventory(host, vms, seenAt);
  },
});
