import { defaultSocketPath, describeAddress, type LibvirtAddress } from './address.ts';
import type { CallOptions, ConnectionOptions } from './connection.ts';
import { isLibvirtError, LIBVIRT_ERRORS, QmpError } from './errors.ts';
import { EventHub, type EventSubscription } from './events.ts';
import * as flags from './flags.ts';
import { Lanes } from './lanes.ts';
import { CALLS } from './calls.ts';
import type { Domain, Parameters } from './protocol.ts';
import { SshTransport } from './transport-ssh.ts';
import { UnixTransport } from './transport-unix.ts';

export type { Domain, Parameters, ParameterValue } from './protocol.ts';
export type { CallOptions } from './connection.ts';
export type { DomainEvent, EventSubscription, LibvirtEvent } from './events.ts';
export { defaultSocketPath, describeAddress, parseLibvirtAddress, type LibvirtAddress } from './address.ts';
export * from './errors.ts';

export type DomainState = Exclude<(typeof flags.DOMAIN_STATES)[number], 'nostate'> | 'unknown';

export interface JobStats {
  type: (typeof flags.JOB_TYPES)[number] | 'unknown';
  operation: (typeof flags.JOB_OPERATIONS)[number];
  /** libvirt's VIR_DOMAIN_JOB_*: `disk_total`, `disk_processed`, `time_elapsed`, `success`, `errmsg`, ... */
  params: Parameters;
}

export interface BlockJob {
  type: (typeof flags.BLOCK_JOB_TYPES)[number];
  bandwidthBytes: number;
  currentBytes: number;
  endBytes: number;
}

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

export interface FileSystem {
  mountpoint: string;
  name: string;
  type: string;
  /** Targets of the disks it lies on: `vda`. */
  disks: string[];
}

export interface BlockInfo {
  /** What the guest sees. */
  capacityBytes: number;
  /** The highest byte written, or the blocks the file takes when the domain does not run. */
  allocationBytes: number;
  /** Size of the file or device. */
  physicalBytes: number;
}

export interface UndefineOptions {
  checkpointsMetadata?: boolean;
  snapshotsMetadata?: boolean;
  nvram?: boolean;
  keepNvram?: boolean;
  managedSave?: boolean;
  tpm?: boolean;
  keepTpm?: boolean;
}

export interface SnapshotCreateOptions {
  diskOnly?: boolean;
  noMetadata?: boolean;
  atomic?: boolean;
  quiesce?: boolean;
  reuseExternal?: boolean;
  redefine?: boolean;
  current?: boolean;
}

/** What a device change applies to; default the running domain if it runs, else the definition. */
export interface DeviceChangeOptions {
  live?: boolean;
  config?: boolean;
}

/** These may wait for a guest, for QEMU or for another job, half a minute and more. */
const SLOW_TIMEOUT_MS = 180_000;
/** How much longer than libvirt we wait for a guest agent, so that the answer is libvirt's. */
const AGENT_GRACE_MS = 15_000;
const SCREENSHOT_MAX_BYTES = 0x4000000;

/**
 * A libvirt daemon. Connects when first used and again by the call after a loss; a call that was sent is never repeated
 * (LibvirtConnectionLost and LibvirtTimeout say `sent`). Domains are meant by `uuid`; name and id may be stale.
 * All calls throw LibvirtError, LibvirtConnectionLost, LibvirtTimeout, LibvirtRefused, or the signal's reason.
 */
export class Libvirt implements AsyncDisposable {
  /** Where the daemon listens, for messages. */
  readonly address: string;
  readonly #lanes: Lanes;
  readonly #events: EventHub;

  constructor(address: LibvirtAddress, options: ConnectionOptions = {}) {
    this.address = describeAddress(address);
    const transport = address.kind === 'unix' ? new UnixTransport(address.path) : new SshTransport(address);
    this.#lanes = new Lanes(transport, options);
    this.#events = new EventHub(() => this.#lanes.connect());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#events.stop();
    await this.#lanes[Symbol.asyncDispose]();
  }

  /**
   * Events of all domains, or of one. They come from the moment `ready` of the subscription resolves; it rejects, and
   * the iteration throws, when the first connection fails. A later loss is mended and told by `{ kind: 'gap' }`.
   */
  events(options: { uuid?: string; signal?: AbortSignal } = {}): EventSubscription {
    return this.#events.subscribe(options);
  }

  // --- the host ---

  async hostname(call?: CallOptions): Promise<string> {
    return (await this.#lanes.call('control', CALLS.getHostname, {}, call)).hostname;
  }

  /** Version of the daemon: `9.0.0`. */
  async libVersion(call?: CallOptions): Promise<string> {
    return versionText((await this.#lanes.call('control', CALLS.getLibVersion, {}, call)).version);
  }

  /** Version of QEMU: `7.2.22`. */
  async hypervisorVersion(call?: CallOptions): Promise<string> {
    return versionText((await this.#lanes.call('control', CALLS.getVersion, {}, call)).version);
  }

  async capabilitiesXml(call?: CallOptions): Promise<string> {
    return (await this.#lanes.call('slow', CALLS.getCapabilities, {}, slow(call))).xml;
  }

  async domainCapabilitiesXml(
    wanted: { emulator?: string; arch?: string; machine?: string; virtType?: string } = {},
    call?: CallOptions,
  ): Promise<string> {
    const { emulator = null, arch = null, machine = null, virtType = null } = wanted;
    const args = { emulator, arch, machine, virtType, flags: 0 };
    return (await this.#lanes.call('slow', CALLS.getDomainCapabilities, args, slow(call))).xml;
  }

  async nodeInfo(call?: CallOptions): Promise<NodeInfo> {
    const { memory, ...info } = await this.#lanes.call('control', CALLS.nodeGetInfo, {}, call);
    return { ...info, memoryBytes: Number(memory) * 1024 };
  }

  // --- domains ---

  async listDomains(call?: CallOptions): Promise<Domain[]> {
    return (await this.#lanes.call('control', CALLS.listAllDomains, { needResults: 1, flags: 0 }, call)).domains;
  }

  async lookupByName(name: string, call?: CallOptions): Promise<Domain | undefined> {
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN, async () => {
      return (await this.#lanes.call('control', CALLS.lookupByName, { name }, call)).dom;
    });
  }

  async lookupByUuid(uuid: string, call?: CallOptions): Promise<Domain | undefined> {
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN, async () => {
      return (await this.#lanes.call('control', CALLS.lookupByUuid, { uuid }, call)).dom;
    });
  }

  /** The XML of the running domain if it runs; `inactive`: what it will be at its next start. */
  async domainXml(
    dom: Domain,
    { inactive, secure, migratable }: { inactive?: boolean; secure?: boolean; migratable?: boolean } = {},
    call?: CallOptions,
  ): Promise<string> {
    const wanted = bits([inactive, flags.XML.INACTIVE], [secure, flags.XML.SECURE], [migratable, flags.XML.MIGRATABLE]);
    return (await this.#lanes.call('control', CALLS.getXmlDesc, { dom, flags: wanted }, call)).xml;
  }

  /** `reason` is virDomain<State>Reason. */
  async state(dom: Domain, call?: CallOptions): Promise<{ state: DomainState; reason: number }> {
    const { state, reason } = await this.#lanes.call('control', CALLS.getState, { dom, flags: 0 }, call);
    const name = flags.nameOf(flags.DOMAIN_STATES, state);
    return { state: name === 'nostate' ? 'unknown' : name, reason };
  }

  async isPersistent(dom: Domain, call?: CallOptions): Promise<boolean> {
    return (await this.#lanes.call('control', CALLS.isPersistent, { dom }, call)).persistent;
  }

  /** Whether its memory was saved when it was stopped: it goes on from there at its next start. */
  async hasManagedSave(dom: Domain, call?: CallOptions): Promise<boolean> {
    return (await this.#lanes.call('control', CALLS.hasManagedSave, { dom, flags: 0 }, call)).saved;
  }

  async define(xml: string, { validate }: { validate?: boolean } = {}, call?: CallOptions): Promise<Domain> {
    const args = { xml, flags: bits([validate, flags.DEFINE.VALIDATE]) };
    return (await this.#lanes.call('slow', CALLS.defineXml, args, slow(call))).dom;
  }

  /** Starts a defined domain. */
  async create(dom: Domain, { paused }: { paused?: boolean } = {}, call?: CallOptions): Promise<Domain> {
    const args = { dom, flags: bits([paused, flags.START.PAUSED]) };
    return (await this.#lanes.call('slow', CALLS.create, args, slow(call))).dom;
  }

  /** Starts a domain that is not defined: nothing of it remains when it ends. */
  async createXml(xml: string, call?: CallOptions): Promise<Domain> {
    return (await this.#lanes.call('slow', CALLS.createXml, { xml, flags: 0 }, slow(call))).dom;
  }

  /** Ends a running domain as by pulling its plug. */
  async destroy(dom: Domain, call?: CallOptions): Promise<void> {
    await this.#lanes.call('slow', CALLS.destroy, { dom, flags: 0 }, slow(call));
  }

  /** Asks the guest to shut down; a lifecycle event tells when it has. */
  async shutdown(dom: Domain, { mode }: { mode: 'agent' | 'acpi' }, call?: CallOptions): Promise<void> {
    const how = mode === 'agent' ? flags.SHUTDOWN.GUEST_AGENT : flags.SHUTDOWN.ACPI_POWER_BTN;
    await this.#lanes.call('slow', CALLS.shutdown, { dom, flags: how }, slow(call));
  }

  async suspend(dom: Domain, call?: CallOptions): Promise<void> {
    await this.#lanes.call('slow', CALLS.suspend, { dom }, slow(call));
  }

  async resume(dom: Domain, call?: CallOptions): Promise<void> {
    await this.#lanes.call('slow', CALLS.resume, { dom }, slow(call));
  }

  /** Look at the state first: a running domain becomes transient and loses its checkpoints' records. */
  async undefine(dom: Domain, options: UndefineOptions = {}, call?: CallOptions): Promise<void> {
    const wanted = bits(
      [options.checkpointsMetadata, flags.UNDEFINE.CHECKPOINTS_METADATA],
      [options.snapshotsMetadata, flags.UNDEFINE.SNAPSHOTS_METADATA],
      [options.nvram, flags.UNDEFINE.NVRAM],
      [options.keepNvram, flags.UNDEFINE.KEEP_NVRAM],
      [options.managedSave, flags.UNDEFINE.MANAGED_SAVE],
      [options.tpm, flags.UNDEFINE.TPM],
      [options.keepTpm, flags.UNDEFINE.KEEP_TPM],
    );
    await this.#lanes.call('slow', CALLS.undefine, { dom, flags: wanted }, slow(call));
  }

  // --- devices and metadata ---

  async attachDevice(dom: Domain, xml: string, options: DeviceChangeOptions = {}, call?: CallOptions): Promise<void> {
    await this.#lanes.call('slow', CALLS.attachDevice, { dom, xml, flags: impact(options) }, slow(call));
  }

  async detachDevice(dom: Domain, xml: string, options: DeviceChangeOptions = {}, call?: CallOptions): Promise<void> {
    await this.#lanes.call('slow', CALLS.detachDevice, { dom, xml, flags: impact(options) }, slow(call));
  }

  async updateDevice(dom: Domain, xml: string, options: DeviceChangeOptions = {}, call?: CallOptions): Promise<void> {
    await this.#lanes.call('slow', CALLS.updateDevice, { dom, xml, flags: impact(options) }, slow(call));
  }

  /** The metadata element of a namespace; undefined when the domain has none. */
  async getMetadata(
    dom: Domain,
    uri: string,
    options: DeviceChangeOptions = {},
    call?: CallOptions,
  ): Promise<string | undefined> {
    const args = { dom, type: flags.METADATA.ELEMENT, uri, flags: impact(options) };
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN_METADATA, async () => {
      return (await this.#lanes.call('control', CALLS.getMetadata, args, call)).metadata;
    });
  }

  /** Sets or, with null, removes the metadata element of a namespace; `prefix` is what libvirt writes it with. */
  async setMetadata(
    dom: Domain,
    { uri, prefix, element }: { uri: string; prefix: string; element: string | null },
    options: DeviceChangeOptions = {},
    call?: CallOptions,
  ): Promise<void> {
    const key = element === null ? null : prefix;
    const args = { dom, type: flags.METADATA.ELEMENT, metadata: element, key, uri, flags: impact(options) };
    await this.#lanes.call('slow', CALLS.setMetadata, args, slow(call));
  }

  // --- checkpoints ---

  /** Names; with `topological`, parents before children. */
  async checkpointList(
    dom: Domain,
    { topological }: { topological?: boolean } = {},
    call?: CallOptions,
  ): Promise<string[]> {
    const args = { dom, needResults: 1, flags: bits([topological, flags.CHECKPOINT_LIST.TOPOLOGICAL]) };
    const { checkpoints } = await this.#lanes.call('control', CALLS.listAllCheckpoints, args, call);
    return checkpoints.map(({ name }) => name);
  }

  /** True when libvirt has a record of the checkpoint; its bitmaps may still be gone or inconsistent. */
  async checkpointLookup(dom: Domain, name: string, call?: CallOptions): Promise<boolean> {
    const found = await absent(LIBVIRT_ERRORS.NO_DOMAIN_CHECKPOINT, async () => {
      return await this.#lanes.call('control', CALLS.checkpointLookup, { dom, name, flags: 0 }, call);
    });
    return found !== undefined;
  }

  /** Name of the checkpoint this one follows; undefined for the first. */
  async checkpointParent(dom: Domain, name: string, call?: CallOptions): Promise<string | undefined> {
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN_CHECKPOINT, async () => {
      const args = { checkpoint: { dom, name }, flags: 0 };
      return (await this.#lanes.call('control', CALLS.checkpointGetParent, args, call)).parent.name;
    });
  }

  /** `size` asks QEMU for the bytes changed since, and needs a running domain. */
  async checkpointXml(
    dom: Domain,
    name: string,
    { size, noDomain, secure }: { size?: boolean; noDomain?: boolean; secure?: boolean } = {},
    call?: CallOptions,
  ): Promise<string> {
    const { SIZE, NO_DOMAIN, SECURE } = flags.CHECKPOINT_XML;
    const args = { checkpoint: { dom, name }, flags: bits([size, SIZE], [noDomain, NO_DOMAIN], [secure, SECURE]) };
    return (await this.#lanes.call('slow', CALLS.checkpointGetXml, args, slow(call))).xml;
  }

  /** Gives the name. `redefineValidate` also checks that the bitmaps are there and consistent. */
  async checkpointCreate(
    dom: Domain,
    xml: string,
    options: { redefine?: boolean; redefineValidate?: boolean; quiesce?: boolean } = {},
    call?: CallOptions,
  ): Promise<string> {
    const { REDEFINE, REDEFINE_VALIDATE, QUIESCE } = flags.CHECKPOINT_CREATE;
    const wanted = bits(
      [options.redefine === true || options.redefineValidate === true, REDEFINE],
      [options.redefineValidate, REDEFINE_VALIDATE],
      [options.quiesce, QUIESCE],
    );
    const args = { dom, xml, flags: wanted };
    return (await this.#lanes.call('slow', CALLS.checkpointCreate, args, slow(call))).checkpoint.name;
  }

  /** Merges its bitmaps into its parent's. `metadataOnly` forgets the record and leaves the bitmaps in the image. */
  async checkpointDelete(
    dom: Domain,
    name: string,
    { metadataOnly, children }: { metadataOnly?: boolean; children?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const { METADATA_ONLY, CHILDREN } = flags.CHECKPOINT_DELETE;
    const args = { checkpoint: { dom, name }, flags: bits([metadataOnly, METADATA_ONLY], [children, CHILDREN]) };
    await this.#lanes.call('slow', CALLS.checkpointDelete, args, slow(call));
  }

  // --- backup jobs ---

  /** Another job on the domain makes it wait 30 s and fail with OPERATION_TIMEOUT. */
  async backupBegin(
    dom: Domain,
    backupXml: string,
    checkpointXml?: string,
    { reuseExternal }: { reuseExternal?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const wanted = bits([reuseExternal, flags.BACKUP_BEGIN.REUSE_EXTERNAL]);
    const args = { dom, backupXml, checkpointXml: checkpointXml ?? null, flags: wanted };
    await this.#lanes.call('slow', CALLS.backupBegin, args, slow(call));
  }

  /** What the running backup job is, with its scratch files and exports; undefined when there is none. */
  async backupXml(dom: Domain, call?: CallOptions): Promise<string | undefined> {
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN_BACKUP, async () => {
      return (await this.#lanes.call('control', CALLS.backupGetXml, { dom, flags: 0 }, call)).xml;
    });
  }

  /** The job that runs or, with `completed`, the one that ended last: that is told once unless `keepCompleted`. */
  async jobStats(
    dom: Domain,
    { completed, keepCompleted }: { completed?: boolean; keepCompleted?: boolean } = {},
    call?: CallOptions,
  ): Promise<JobStats> {
    const { COMPLETED, KEEP_COMPLETED } = flags.JOB_STATS;
    const wanted = bits([completed === true || keepCompleted === true, COMPLETED], [keepCompleted, KEEP_COMPLETED]);
    const { type, params } = await this.#lanes.call('slow', CALLS.getJobStats, { dom, flags: wanted }, call);
    const { operation, ...rest } = params;
    return {
      type: flags.nameOf(flags.JOB_TYPES, type),
      operation: flags.nameOf(flags.JOB_OPERATIONS, Number(operation ?? 0)),
      params: rest,
    };
  }

  /** The normal end of a pull backup, and the undo of any job. */
  async abortJob(dom: Domain, call?: CallOptions): Promise<void> {
    await this.#lanes.call('slow', CALLS.abortJob, { dom }, slow(call));
  }

  // --- guest agent and QEMU monitor ---

  /** Runs an agent command and gives what it returned. libvirt gives up on the guest after `timeoutSeconds`. */
  async agentCommand(dom: Domain, command: object, timeoutSeconds: number, call: CallOptions = {}): Promise<unknown> {
    const args = { dom, command: JSON.stringify(command), timeout: timeoutSeconds, flags: 0 };
    const limits = { ...call, timeoutMs: call.timeoutMs ?? timeoutSeconds * 1000 + AGENT_GRACE_MS };
    const { result } = await this.#lanes.call('slow', CALLS.agentCommand, args, limits);
    return result === null ? undefined : (JSON.parse(result) as { return?: unknown }).return;
  }

  /**
   * How long libvirt waits for the guest in fsFreeze, fsThaw, fsInfo, guestInfo and shutdown by agent (agentCommand has
   * its own): seconds; by default it waits for ever. Kept in libvirt for the domain until it ends.
   */
  async setAgentResponseTimeout(dom: Domain, seconds: number, call?: CallOptions): Promise<void> {
    await this.#lanes.call('control', CALLS.agentSetResponseTimeout, { dom, timeout: seconds, flags: 0 }, call);
  }

  /** Freezes the guest's file systems, all of them by default; gives their number. */
  async fsFreeze(dom: Domain, mountpoints: string[] = [], call?: CallOptions): Promise<number> {
    return (await this.#lanes.call('slow', CALLS.fsFreeze, { dom, mountpoints, flags: 0 }, slow(call))).filesystems;
  }

  async fsThaw(dom: Domain, mountpoints: string[] = [], call?: CallOptions): Promise<number> {
    return (await this.#lanes.call('slow', CALLS.fsThaw, { dom, mountpoints, flags: 0 }, slow(call))).filesystems;
  }

  async fsInfo(dom: Domain, call?: CallOptions): Promise<FileSystem[]> {
    const { info } = await this.#lanes.call('slow', CALLS.getFsInfo, { dom, flags: 0 }, slow(call));
    return info.map(({ mountpoint, name, fsType, devAliases }) => ({
      mountpoint,
      name,
      type: fsType,
      disks: devAliases,
    }));
  }

  /** What the agent knows of the guest, in libvirt's names: `os.id`, `hostname`, `fs.0.mountpoint`, ... */
  async guestInfo(dom: Domain, kinds: (keyof typeof flags.GUEST_INFO)[] = [], call?: CallOptions): Promise<Parameters> {
    const types = bits(...kinds.map((kind) => [true, flags.GUEST_INFO[kind]] as const));
    return (await this.#lanes.call('slow', CALLS.getGuestInfo, { dom, types, flags: 0 }, slow(call))).params;
  }

  /** A QMP command; gives its `return`. Throws QmpError when QEMU refuses it. */
  async monitorCommand(dom: Domain, command: object, call?: CallOptions): Promise<unknown> {
    const args = { dom, command: JSON.stringify(command), flags: 0 };
    const { result } = await this.#lanes.call('slow', CALLS.monitorCommand, args, slow(call));
    const answer = JSON.parse(result) as { return?: unknown; error?: { class?: string; desc?: string } };
    if (answer.error !== undefined) {
      throw new QmpError(answer.error.class ?? 'GenericError', answer.error.desc ?? 'QEMU gave no reason');
    }
    return answer.return;
  }

  /** A command of QEMU's monitor for people; gives its text, errors included. */
  async monitorCommandHmp(dom: Domain, command: string, call?: CallOptions): Promise<string> {
    const args = { dom, command, flags: flags.MONITOR_COMMAND.HMP };
    return (await this.#lanes.call('slow', CALLS.monitorCommand, args, slow(call))).result;
  }

  /** A picture of the first screen, as PNG or PPM by `mime`. */
  async screenshot(dom: Domain, call: CallOptions = {}): Promise<{ mime: string; image: Buffer }> {
    const connection = await this.#lanes.connect(call); // a stream stalls what else is on its connection
    try {
      const args = { dom, screen: 0, flags: 0 };
      const { reply, data } = await connection.callWithData(CALLS.screenshot, args, SCREENSHOT_MAX_BYTES, slow(call));
      return { mime: reply.mime ?? 'application/octet-stream', image: data };
    } finally {
      connection.close();
    }
  }

  // --- disks, by target (`vda`) or path ---

  async blockInfo(dom: Domain, disk: string, call?: CallOptions): Promise<BlockInfo> {
    const info = await this.#lanes.call('slow', CALLS.getBlockInfo, { dom, path: disk, flags: 0 }, call);
    return {
      capacityBytes: Number(info.capacity),
      allocationBytes: Number(info.allocation),
      physicalBytes: Number(info.physical),
    };
  }

  /** libvirt's VIR_DOMAIN_BLOCK_STATS_*: `rd_bytes`, `wr_operations`, ... */
  async blockStats(dom: Domain, disk: string, call?: CallOptions): Promise<Parameters> {
    const args = { dom, path: disk, nparams: 0, flags: flags.TYPED_PARAM_STRING_OKAY };
    const { nparams } = await this.#lanes.call('slow', CALLS.blockStats, args, call);
    return (await this.#lanes.call('slow', CALLS.blockStats, { ...args, nparams }, call)).params;
  }

  /** Merges `top` (default the active image) into `base` (default the whole chain's) in the background. */
  async blockCommit(
    dom: Domain,
    disk: string,
    options: { base?: string; top?: string; active?: boolean; shallow?: boolean; delete?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const { ACTIVE, SHALLOW, DELETE } = flags.BLOCK_COMMIT;
    const wanted = bits([options.active, ACTIVE], [options.shallow, SHALLOW], [options.delete, DELETE]);
    const args = { dom, disk, base: options.base ?? null, top: options.top ?? null, bandwidth: 0n, flags: wanted };
    await this.#lanes.call('slow', CALLS.blockCommit, args, slow(call));
  }

  /** Copies the backing files into the active image until it needs them no more, in the background. */
  async blockPull(
    dom: Domain,
    disk: string,
    { base, bandwidthBytes = 0 }: { base?: string; bandwidthBytes?: number } = {},
    call?: CallOptions,
  ): Promise<void> {
    const bandwidth = BigInt(bandwidthBytes);
    const common = { dom, path: disk, bandwidth, flags: flags.BLOCK_PULL.BANDWIDTH_BYTES };
    if (base === undefined) await this.#lanes.call('slow', CALLS.blockPull, common, slow(call));
    else await this.#lanes.call('slow', CALLS.blockRebase, { ...common, base }, slow(call));
  }

  /** The block job of a disk; undefined when there is none. */
  async blockJobInfo(dom: Domain, disk: string, call?: CallOptions): Promise<BlockJob | undefined> {
    const args = { dom, path: disk, flags: flags.BLOCK_JOB_INFO.BANDWIDTH_BYTES };
    const { found, type, bandwidth, current, end } = await this.#lanes.call('slow', CALLS.blockJobInfo, args, call);
    if (!found) return undefined;
    return {
      type: flags.nameOf(flags.BLOCK_JOB_TYPES, type),
      bandwidthBytes: Number(bandwidth),
      currentBytes: Number(current),
      endBytes: Number(end),
    };
  }

  /** How fast a block job may go from now on; 0 = as fast as it can. */
  async blockJobSetSpeed(dom: Domain, disk: string, bandwidthBytes: number, call?: CallOptions): Promise<void> {
    const args = { dom, path: disk, bandwidth: BigInt(bandwidthBytes), flags: flags.BLOCK_JOB_SPEED.BANDWIDTH_BYTES };
    await this.#lanes.call('slow', CALLS.blockJobSetSpeed, args, slow(call));
  }

  /** Ends a block job; with `pivot` the domain goes on with the job's result, once the job is `ready`. */
  async blockJobAbort(
    dom: Domain,
    disk: string,
    { pivot, async: inBackground }: { pivot?: boolean; async?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const { PIVOT, ASYNC } = flags.BLOCK_JOB_ABORT;
    const args = { dom, path: disk, flags: bits([pivot, PIVOT], [inBackground, ASYNC]) };
    await this.#lanes.call('slow', CALLS.blockJobAbort, args, slow(call));
  }

  /** Of a running domain. */
  async blockResize(dom: Domain, disk: string, sizeBytes: number, call?: CallOptions): Promise<void> {
    const args = { dom, disk, size: BigInt(sizeBytes), flags: flags.BLOCK_RESIZE.BYTES };
    await this.#lanes.call('slow', CALLS.blockResize, args, slow(call));
  }

  // --- snapshots ---

  /** Gives the name. */
  async snapshotCreate(
    dom: Domain,
    xml: string,
    options: SnapshotCreateOptions = {},
    call?: CallOptions,
  ): Promise<string> {
    const of = flags.SNAPSHOT_CREATE;
    const wanted = bits(
      [options.diskOnly, of.DISK_ONLY],
      [options.noMetadata, of.NO_METADATA],
      [options.atomic, of.ATOMIC],
      [options.quiesce, of.QUIESCE],
      [options.reuseExternal, of.REUSE_EXT],
      [options.redefine, of.REDEFINE],
      [options.current, of.CURRENT],
    );
    return (await this.#lanes.call('slow', CALLS.snapshotCreate, { dom, xml, flags: wanted }, slow(call))).snap.name;
  }

  /** Names, parents before children. */
  async snapshotList(dom: Domain, call?: CallOptions): Promise<string[]> {
    const args = { dom, needResults: 1, flags: flags.SNAPSHOT_LIST.TOPOLOGICAL };
    return (await this.#lanes.call('control', CALLS.listAllSnapshots, args, call)).snapshots.map(({ name }) => name);
  }

  async snapshotXml(dom: Domain, name: string, call?: CallOptions): Promise<string> {
    return (await this.#lanes.call('control', CALLS.snapshotGetXml, { snap: { dom, name }, flags: 0 }, call)).xml;
  }

  async snapshotDelete(
    dom: Domain,
    name: string,
    { metadataOnly, children }: { metadataOnly?: boolean; children?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const { METADATA_ONLY, CHILDREN } = flags.SNAPSHOT_DELETE;
    const args = { snap: { dom, name }, flags: bits([metadataOnly, METADATA_ONLY], [children, CHILDREN]) };
    await this.#lanes.call('slow', CALLS.snapshotDelete, args, slow(call));
  }
}

/** A client of the daemon at an address, by default this machine's. Connects when it is first used. */
export const connectLibvirt = (
  address: LibvirtAddress = { kind: 'unix', path: defaultSocketPath() },
  options: ConnectionOptions = {},
): Libvirt => new Libvirt(address, options);

const slow = (call: CallOptions = {}): CallOptions => ({ ...call, timeoutMs: call.timeoutMs ?? SLOW_TIMEOUT_MS });

/** The flags whose condition is true. */
const bits = (...choices: (readonly [wanted: boolean | undefined, bit: number])[]): number =>
  choices.reduce((all, [wanted, bit]) => (wanted === true ? all | bit : all), 0);

const impact = ({ live, config }: DeviceChangeOptions): number =>
  bits([live, flags.AFFECT.LIVE], [config, flags.AFFECT.CONFIG]);

/** libvirt packs a version as major * 1,000,000 + minor * 1,000 + release. */
const versionText = (version: bigint): string =>
  `${version / 1_000_000n}.${(version / 1000n) % 1000n}.${version % 1000n}`;

/** Undefined in place of the error that says there is no such thing. */
async function absent<T>(code: number, look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if (isLibvirtError(error, code)) return undefined;
    throw error;
  }
}
