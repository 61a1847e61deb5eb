import { CALLS } from './calls.ts';
import { slow } from './calling.ts';
import type { CallOptions } from './connection.ts';
import type { Lanes } from './lanes.ts';

export interface NodeInfo {
  /** CPU model of the machine, as `uname -m`. */
  model: string;
  memoryBytes: number;
  cpus: number;
  mhz: number;
  nodes: number;
  sockets: number;
  cores: number;
  threads: number;
}

/** What a daemon tells of its machine and of itself. */
export const hostCalls = (lanes: Lanes) => ({
  async hostname(call?: CallOptions): Promise<string> {
    return (await lanes.call('control', CALLS.getHostname, {}, call)).hostname;
  },

  /** Version of the daemon: `9.0.0`. */
  async libVersion(call?: CallOptions): Promise<string> {
    return versionText((await lanes.call('control', CALLS.getLibVersion, {}, call)).version);
  },

  /** Version of QEMU: `7.2.22`. */
  async hypervisorVersion(call?: CallOptions): Promise<string> {
    return versionText((await lanes.call('control', CALLS.getVersion, {}, call)).version);
  },

  async capabilitiesXml(call?: CallOptions): Promise<string> {
    return (await lanes.call('slow', CALLS.getCapabilities, {}, slow(call))).xml;
  },

  async domainCapabilitiesXml(
    wanted: { emulator?: string; arch?: string; machine?: string; virtType?: string } = {},
    call?: CallOptions,
  ): Promise<string> {
    const { emulator = null, arch = null, machine = null, virtType = null } = wanted;
    const args = { emulator, arch, machine, virtType, flags: 0 };
    return (await lanes.call('slow', CALLS.getDomainCapabilities, args, slow(call))).xml;
  },

  async nodeInfo(call?: CallOptions): Promise<NodeInfo> {
    const { memory, ...info } = await lanes.call('control', CALLS.nodeGetInfo, {}, call);
    return { ...info, memoryBytes: Number(memory) * 1024 };
  },
});

/** libvirt packs a version as major * 1,000,000 + minor * 1,000 + release. */
const versionText = (version: bigint): string =>
  `${version / 1_000_000n}.${(version / 1000n) % 1000n}.${version % 1000n}`;
