import { CALLS } from './calls.ts';
import { absent, bits, slow } from './calling.ts';
import type { CallOptions } from './connection.ts';
import { LIBVIRT_ERRORS } from './errors.ts';
import * as flags from './flags.ts';
import type { Lanes } from './lanes.ts';
import type { Domain } from './protocol.ts';

export type DomainState = Exclude<(typeof flags.DOMAIN_STATES)[number], 'nostate'> | 'unknown';

export interface UndefineOptions {
  checkpointsMetadata?: boolean;
  snapshotsMetadata?: boolean;
  nvram?: boolean;
  keepNvram?: boolean;
  managedSave?: boolean;
  tpm?: boolean;
  keepTpm?: boolean;
}

/** What a device change applies to; default the running domain if it runs, else the definition. */
export interface DeviceChangeOptions {
  live?: boolean;
  config?: boolean;
}

/** Domains: found, read, defined, started and stopped, and their devices and metadata. */
export const domainCalls = (lanes: Lanes) => ({
  async listDomains(call?: CallOptions): Promise<Domain[]> {
    return (await lanes.call('control', CALLS.listAllDomains, { needResults: 1, flags: 0 }, call)).domains;
  },

  async lookupByName(name: string, call?: CallOptions): Promise<Domain | undefined> {
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN, async () => {
      return (await lanes.call('control', CALLS.lookupByName, { name }, call)).dom;
    });
  },

  async lookupByUuid(uuid: string, call?: CallOptions): Promise<Domain | undefined> {
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN, async () => {
      return (await lanes.call('control', CALLS.lookupByUuid, { uuid }, call)).dom;
    });
  },

  /** The XML of the running domain if it runs; `inactive`: what it will be at its next start. */
  async domainXml(
    dom: Domain,
    { inactive, secure, migratable }: { inactive?: boolean; secure?: boolean; migratable?: boolean } = {},
    call?: CallOptions,
  ): Promise<string> {
    const wanted = bits([inactive, flags.XML.INACTIVE], [secure, flags.XML.SECURE], [migratable, flags.XML.MIGRATABLE]);
    return (await lanes.call('control', CALLS.getXmlDesc, { dom, flags: wanted }, call)).xml;
  },

  /** `reason` is virDomain<State>Reason. */
  async state(dom: Domain, call?: CallOptions): Promise<{ state: DomainState; reason: number }> {
    const { state, reason } = await lanes.call('control', CALLS.getState, { dom, flags: 0 }, call);
    const name = flags.nameOf(flags.DOMAIN_STATES, state);
    return { state: name === 'nostate' ? 'unknown' : name, reason };
  },

  async isPersistent(dom: Domain, call?: CallOptions): Promise<boolean> {
    return (await lanes.call('control', CALLS.isPersistent, { dom }, call)).persistent;
  },

  /** Whether its memory was saved when it was stopped: it goes on from there at its next start. */
  async hasManagedSave(dom: Domain, call?: CallOptions): Promise<boolean> {
    return (await lanes.call('control', CALLS.hasManagedSave, { dom, flags: 0 }, call)).saved;
  },

  async define(xml: string, { validate }: { validate?: boolean } = {}, call?: CallOptions): Promise<Domain> {
    const args = { xml, flags: bits([validate, flags.DEFINE.VALIDATE]) };
    return (await lanes.call('slow', CALLS.defineXml, args, slow(call))).dom;
  },

  /** Starts a defined domain. */
  async create(dom: Domain, { paused }: { paused?: boolean } = {}, call?: CallOptions): Promise<Domain> {
    const args = { dom, flags: bits([paused, flags.START.PAUSED]) };
    return (await lanes.call('slow', CALLS.create, args, slow(call))).dom;
  },

  /** Starts a domain that is not defined: nothing of it remains when it ends. */
  async createXml(xml: string, call?: CallOptions): Promise<Domain> {
    return (await lanes.call('slow', CALLS.createXml, { xml, flags: 0 }, slow(call))).dom;
  },

  /** Ends a running domain as by pulling its plug. */
  async destroy(dom: Domain, call?: CallOptions): Promise<void> {
    await lanes.call('slow', CALLS.destroy, { dom, flags: 0 }, slow(call));
  },

  /** Asks the guest to shut down; a lifecycle event tells when it has. */
  async shutdown(dom: Domain, { mode }: { mode: 'agent' | 'acpi' }, call?: CallOptions): Promise<void> {
    const how = mode === 'agent' ? flags.SHUTDOWN.GUEST_AGENT : flags.SHUTDOWN.ACPI_POWER_BTN;
    await lanes.call('slow', CALLS.shutdown, { dom, flags: how }, slow(call));
  },

  async suspend(dom: Domain, call?: CallOptions): Promise<void> {
    await lanes.call('slow', CALLS.suspend, { dom }, slow(call));
  },

  async resume(dom: Domain, call?: CallOptions): Promise<void> {
    await lanes.call('slow', CALLS.resume, { dom }, slow(call));
  },

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
    await lanes.call('slow', CALLS.undefine, { dom, flags: wanted }, slow(call));
  },

  async attachDevice(dom: Domain, xml: string, options: DeviceChangeOptions = {}, call?: CallOptions): Promise<void> {
    await lanes.call('slow', CALLS.attachDevice, { dom, xml, flags: impact(options) }, slow(call));
  },

  async detachDevice(dom: Domain, xml: string, options: DeviceChangeOptions = {}, call?: CallOptions): Promise<void> {
    await lanes.call('slow', CALLS.detachDevice, { dom, xml, flags: impact(options) }, slow(call));
  },

  async updateDevice(dom: Domain, xml: string, options: DeviceChangeOptions = {}, call?: CallOptions): Promise<void> {
    await lanes.call('slow', CALLS.updateDevice, { dom, xml, flags: impact(options) }, slow(call));
  },

  /** The metadata element of a namespace; undefined when the domain has none. */
  async getMetadata(
    dom: Domain,
    uri: string,
    options: DeviceChangeOptions = {},
    call?: CallOptions,
  ): Promise<string | undefined> {
    const args = { dom, type: flags.METADATA.ELEMENT, uri, flags: impact(options) };
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN_METADATA, async () => {
      return (await lanes.call('control', CALLS.getMetadata, args, call)).metadata;
    });
  },

  /** Sets or, with null, removes the metadata element of a namespace; `prefix` is what libvirt writes it with. */
  async setMetadata(
    dom: Domain,
    { uri, prefix, element }: { uri: string; prefix: string; element: string | null },
    options: DeviceChangeOptions = {},
    call?: CallOptions,
  ): Promise<void> {
    const key = element === null ? null : prefix;
    const args = { dom, type: flags.METADATA.ELEMENT, metadata: element, key, uri, flags: impact(options) };
    await lanes.call('slow', CALLS.setMetadata, args, slow(call));
  },
});

const impact = ({ live, config }: DeviceChangeOptions): number =>
  bits([live, flags.AFFECT.LIVE], [config, flags.AFFECT.CONFIG]);
