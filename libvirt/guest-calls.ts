import { CALLS } from './calls.ts';
import { bits, slow } from './calling.ts';
import type { CallOptions } from './connection.ts';
import { QmpError } from './errors.ts';
import * as flags from './flags.ts';
import type { Lanes } from './lanes.ts';
import type { Domain, Parameters } from './protocol.ts';

export interface FileSystem {
  mountpoint: string;
  name: string;
  type: string;
  /** Targets of the disks it lies on: `vda`. */
  disks: string[];
}

/** How much longer than libvirt we wait for a guest agent, so that the answer is libvirt's. */
const AGENT_GRACE_MS = 15_000;

const SCREENSHOT_MAX_BYTES = 0x4000000;

/** What is asked of the guest, by its agent, and of its QEMU. */
export const guestCalls = (lanes: Lanes) => ({
  /** Runs an agent command and gives what it returned. libvirt gives up on the guest after `timeoutSeconds`. */
  async agentCommand(dom: Domain, command: object, timeoutSeconds: number, call: CallOptions = {}): Promise<unknown> {
    const args = { dom, command: JSON.stringify(command), timeout: timeoutSeconds, flags: 0 };
    const limits = { ...call, timeoutMs: call.timeoutMs ?? timeoutSeconds * 1000 + AGENT_GRACE_MS };
    const { result } = await lanes.call('slow', CALLS.agentCommand, args, limits);
    return result === null ? undefined : (JSON.parse(result) as { return?: unknown }).return;
  },

  /**
   * How long libvirt waits for the guest in fsFreeze, fsThaw, fsInfo, guestInfo and shutdown by agent (agentCommand has
   * its own): seconds; by default it waits for ever. Kept in libvirt for the domain until it ends.
   */
  async setAgentResponseTimeout(dom: Domain, seconds: number, call?: CallOptions): Promise<void> {
    await lanes.call('control', CALLS.agentSetResponseTimeout, { dom, timeout: seconds, flags: 0 }, call);
  },

  /** Freezes the guest's file systems, all of them by default; gives their number. */
  async fsFreeze(dom: Domain, mountpoints: string[] = [], call?: CallOptions): Promise<number> {
    return (await lanes.call('slow', CALLS.fsFreeze, { dom, mountpoints, flags: 0 }, slow(call))).filesystems;
  },

  async fsThaw(dom: Domain, mountpoints: string[] = [], call?: CallOptions): Promise<number> {
    return (await lanes.call('slow', CALLS.fsThaw, { dom, mountpoints, flags: 0 }, slow(call))).filesystems;
  },

  async fsInfo(dom: Domain, call?: CallOptions): Promise<FileSystem[]> {
    const { info } = await lanes.call('slow', CALLS.getFsInfo, { dom, flags: 0 }, slow(call));
    return info.map(({ mountpoint, name, fsType, devAliases }) => ({
      mountpoint,
      name,
      type: fsType,
      disks: devAliases,
    }));
  },

  /** What the agent knows of the guest, in libvirt's names: `os.id`, `hostname`, `fs.0.mountpoint`, ... */
  async guestInfo(dom: Domain, kinds: (keyof typeof flags.GUEST_INFO)[] = [], call?: CallOptions): Promise<Parameters> {
    const types = bits(...kinds.map((kind) => [true, flags.GUEST_INFO[kind]] as const));
    return (await lanes.call('slow', CALLS.getGuestInfo, { dom, types, flags: 0 }, slow(call))).params;
  },

  /** A QMP command; gives its `return`. Throws QmpError when QEMU refuses it. */
  async monitorCommand(dom: Domain, command: object, call?: CallOptions): Promise<unknown> {
    const args = { dom, command: JSON.stringify(command), flags: 0 };
    const { result } = await lanes.call('slow', CALLS.monitorCommand, args, slow(call));
    const answer = JSON.parse(result) as { return?: unknown; error?: { class?: string; desc?: string } };
    if (answer.error !== undefined) {
      throw new QmpError(answer.error.class ?? 'GenericError', answer.error.desc ?? 'QEMU gave no reason');
    }
    return answer.return;
  },

  /** A command of QEMU's monitor for people; gives its text, errors included. */
  async monitorCommandHmp(dom: Domain, command: string, call?: CallOptions): Promise<string> {
    const args = { dom, command, flags: flags.MONITOR_COMMAND.HMP };
    return (await lanes.call('slow', CALLS.monitorCommand, args, slow(call))).result;
  },

  /** A picture of the first screen, as PNG or PPM by `mime`. */
  async screenshot(dom: Domain, call: CallOptions = {}): Promise<{ mime: string; image: Buffer }> {
    const connection = await lanes.connect(call); // a stream stalls what else is on its connection
    try {
      const args = { dom, screen: 0, flags: 0 };
      const { reply, data } = await connection.callWithData(CALLS.screenshot, args, SCREENSHOT_MAX_BYTES, slow(call));
      return { mime: reply.mime ?? 'application/octet-stream', image: data };
    } finally {
      connection.close();
    }
  },
});
