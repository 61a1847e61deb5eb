import { defaultSocketPath, describeAddress, type LibvirtAddress } from './address.ts';
import { checkpointCalls } from './checkpoint-calls.ts';
import type { ConnectionOptions } from './connection.ts';
import { diskCalls } from './disk-calls.ts';
import { domainCalls } from './domain-calls.ts';
import { EventHub, type EventSubscription } from './events.ts';
import { guestCalls } from './guest-calls.ts';
import { hostCalls } from './host-calls.ts';
import { Lanes } from './lanes.ts';
import { snapshotCalls } from './snapshot-calls.ts';
import { SshTransport } from './transport-ssh.ts';
import { UnixTransport } from './transport-unix.ts';

export type { Domain, Parameters, ParameterValue } from './protocol.ts';
export type { CallOptions } from './connection.ts';
export type { DomainEvent, EventSubscription, LibvirtEvent } from './events.ts';
export { defaultSocketPath, describeAddress, parseLibvirtAddress, type LibvirtAddress } from './address.ts';
export * from './errors.ts';
export type { NodeInfo } from './host-calls.ts';
export type { DomainState, UndefineOptions, DeviceChangeOptions } from './domain-calls.ts';
export type { JobStats } from './checkpoint-calls.ts';
export type { FileSystem } from './guest-calls.ts';
export type { BlockInfo, BlockJob } from './disk-calls.ts';
export type { SnapshotCreateOptions } from './snapshot-calls.ts';

/** Every call, by its subject; they share the connections. */
const callsOf = (lanes: Lanes) => ({
  ...hostCalls(lanes),
  ...domainCalls(lanes),
  ...checkpointCalls(lanes),
  ...guestCalls(lanes),
  ...diskCalls(lanes),
  ...snapshotCalls(lanes),
});

/**
 * A libvirt daemon. Connects when first used and again by the call after a loss; a call that was sent is never repeated
 * (LibvirtConnectionLost and LibvirtTimeout say `sent`). Domains are meant by `uuid`; name and id may be stale.
 * All calls throw LibvirtError, LibvirtConnectionLost, LibvirtTimeout, LibvirtRefused, or the signal's reason.
 */
export interface Libvirt extends AsyncDisposable, ReturnType<typeof callsOf> {
  /** Where the daemon listens, for messages. */
  readonly address: string;
  /**
   * Events of all domains, or of one. They come from the moment `ready` of the subscription resolves; it rejects, and
   * the iteration throws, when the first connection fails. A later loss is mended and told by `{ kind: 'gap' }`.
   */
  events(options?: { uuid?: string; signal?: AbortSignal }): EventSubscription;
}

/** A client of the daemon at an address, by default this machine's. Connects when it is first used. */
export function connectLibvirt(
  address: LibvirtAddress = { kind: 'unix', path: defaultSocketPath() },
  options: ConnectionOptions = {},
): Libvirt {
  const transport = address.kind === 'unix' ? new UnixTransport(address.path) : new SshTransport(address);
  const lanes = new Lanes(transport, options);
  const hub = new EventHub(() => lanes.connect());
  return {
    ...callsOf(lanes),
    address: describeAddress(address),
    events: (wanted = {}) => hub.subscribe(wanted),
    async [Symbol.asyncDispose]() {
      hub.stop();
      await lanes[Symbol.asyncDispose]();
    },
  };
}
