import { CALLS } from './calls.ts';
import { absent, bits, slow } from './calling.ts';
import type { CallOptions } from './connection.ts';
import { LIBVIRT_ERRORS } from './errors.ts';
import * as flags from './flags.ts';
import type { Lanes } from './lanes.ts';
import type { Domain, Parameters } from './protocol.ts';

export interface JobStats {
  type: (typeof flags.JOB_TYPES)[number] | 'unknown';
  operation: (typeof flags.JOB_OPERATIONS)[number];
  /** libvirt's VIR_DOMAIN_JOB_*: `disk_total`, `disk_processed`, `time_elapsed`, `success`, `errmsg`, ... */
  params: Parameters;
}

/** Checkpoints and backup jobs of a domain. */
export const checkpointCalls = (lanes: Lanes) => ({
  /** Names; with `topological`, parents before children. */
  async checkpointList(
    dom: Domain,
    { topological }: { topological?: boolean } = {},
    call?: CallOptions,
  ): Promise<string[]> {
    const args = { dom, needResults: 1, flags: bits([topological, flags.CHECKPOINT_LIST.TOPOLOGICAL]) };
    const { checkpoints } = await lanes.call('control', CALLS.listAllCheckpoints, args, call);
    return checkpoints.map(({ name }) => name);
  },

  /** True when libvirt has a record of the checkpoint; its bitmaps may still be gone or inconsistent. */
  async checkpointLookup(dom: Domain, name: string, call?: CallOptions): Promise<boolean> {
    const found = await absent(LIBVIRT_ERRORS.NO_DOMAIN_CHECKPOINT, async () => {
      return await lanes.call('control', CALLS.checkpointLookup, { dom, name, flags: 0 }, call);
    });
    return found !== undefined;
  },

  /** Name of the checkpoint this one follows; undefined for the first. */
  async checkpointParent(dom: Domain, name: string, call?: CallOptions): Promise<string | undefined> {
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN_CHECKPOINT, async () => {
      const args = { checkpoint: { dom, name }, flags: 0 };
      return (await lanes.call('control', CALLS.checkpointGetParent, args, call)).parent.name;
    });
  },

  /** `size` asks QEMU for the bytes changed since, and needs a running domain. */
  async checkpointXml(
    dom: Domain,
    name: string,
    { size, noDomain, secure }: { size?: boolean; noDomain?: boolean; secure?: boolean } = {},
    call?: CallOptions,
  ): Promise<string> {
    const { SIZE, NO_DOMAIN, SECURE } = flags.CHECKPOINT_XML;
    const args = { checkpoint: { dom, name }, flags: bits([size, SIZE], [noDomain, NO_DOMAIN], [secure, SECURE]) };
    return (await lanes.call('slow', CALLS.checkpointGetXml, args, slow(call))).xml;
  },

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
    return (await lanes.call('slow', CALLS.checkpointCreate, args, slow(call))).checkpoint.name;
  },

  /** Merges its bitmaps into its parent's. `metadataOnly` forgets the record and leaves the bitmaps in the image. */
  async checkpointDelete(
    dom: Domain,
    name: string,
    { metadataOnly, children }: { metadataOnly?: boolean; children?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const { METADATA_ONLY, CHILDREN } = flags.CHECKPOINT_DELETE;
    const args = { checkpoint: { dom, name }, flags: bits([metadataOnly, METADATA_ONLY], [children, CHILDREN]) };
    await lanes.call('slow', CALLS.checkpointDelete, args, slow(call));
  },

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
    await lanes.call('slow', CALLS.backupBegin, args, slow(call));
  },

  /** What the running backup job is, with its scratch files and exports; undefined when there is none. */
  async backupXml(dom: Domain, call?: CallOptions): Promise<string | undefined> {
    return await absent(LIBVIRT_ERRORS.NO_DOMAIN_BACKUP, async () => {
      return (await lanes.call('control', CALLS.backupGetXml, { dom, flags: 0 }, call)).xml;
    });
  },

  /** The job that runs or, with `completed`, the one that ended last: that is told once unless `keepCompleted`. */
  async jobStats(
    dom: Domain,
    { completed, keepCompleted }: { completed?: boolean; keepCompleted?: boolean } = {},
    call?: CallOptions,
  ): Promise<JobStats> {
    const { COMPLETED, KEEP_COMPLETED } = flags.JOB_STATS;
    const wanted = bits([completed === true || keepCompleted === true, COMPLETED], [keepCompleted, KEEP_COMPLETED]);
    const { type, params } = await lanes.call('slow', CALLS.getJobStats, { dom, flags: wanted }, call);
    const { operation, ...rest } = params;
    return {
      type: flags.nameOf(flags.JOB_TYPES, type),
      operation: flags.nameOf(flags.JOB_OPERATIONS, Number(operation ?? 0)),
      params: rest,
    };
  },

  /** The normal end of a pull backup, and the undo of any job. */
  async abortJob(dom: Domain, call?: CallOptions): Promise<void> {
    await lanes.call('slow', CALLS.abortJob, { dom }, slow(call));
  },
});
