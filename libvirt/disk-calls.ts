import { CALLS } from './calls.ts';
import { bits, slow } from './calling.ts';
import type { CallOptions } from './connection.ts';
import * as flags from './flags.ts';
import type { Lanes } from './lanes.ts';
import type { Domain, Parameters } from './protocol.ts';

export interface BlockInfo {
  /** What the guest sees. */
  capacityBytes: number;
  /** The highest byte written, or the blocks the file takes when the domain does not run. */
  allocationBytes: number;
  /** Size of the file or device. */
  physicalBytes: number;
}

export interface BlockJob {
  type: (typeof flags.BLOCK_JOB_TYPES)[number];
  bandwidthBytes: number;
  currentBytes: number;
  endBytes: number;
}

/** Disks of a domain, by target (`vda`) or path, and the block jobs on them. */
export const diskCalls = (lanes: Lanes) => ({
  async blockInfo(dom: Domain, disk: string, call?: CallOptions): Promise<BlockInfo> {
    const info = await lanes.call('slow', CALLS.getBlockInfo, { dom, path: disk, flags: 0 }, call);
    return {
      capacityBytes: Number(info.capacity),
      allocationBytes: Number(info.allocation),
      physicalBytes: Number(info.physical),
    };
  },

  /** libvirt's VIR_DOMAIN_BLOCK_STATS_*: `rd_bytes`, `wr_operations`, ... */
  async blockStats(dom: Domain, disk: string, call?: CallOptions): Promise<Parameters> {
    const args = { dom, path: disk, nparams: 0, flags: flags.TYPED_PARAM_STRING_OKAY };
    const { nparams } = await lanes.call('slow', CALLS.blockStats, args, call);
    return (await lanes.call('slow', CALLS.blockStats, { ...args, nparams }, call)).params;
  },

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
    await lanes.call('slow', CALLS.blockCommit, args, slow(call));
  },

  /** Copies the backing files into the active image until it needs them no more, in the background. */
  async blockPull(
    dom: Domain,
    disk: string,
    { base, bandwidthBytes = 0 }: { base?: string; bandwidthBytes?: number } = {},
    call?: CallOptions,
  ): Promise<void> {
    const bandwidth = BigInt(bandwidthBytes);
    const common = { dom, path: disk, bandwidth, flags: flags.BLOCK_PULL.BANDWIDTH_BYTES };
    if (base === undefined) await lanes.call('slow', CALLS.blockPull, common, slow(call));
    else await lanes.call('slow', CALLS.blockRebase, { ...common, base }, slow(call));
  },

  /** The block job of a disk; undefined when there is none. */
  async blockJobInfo(dom: Domain, disk: string, call?: CallOptions): Promise<BlockJob | undefined> {
    const args = { dom, path: disk, flags: flags.BLOCK_JOB_INFO.BANDWIDTH_BYTES };
    const { found, type, bandwidth, current, end } = await lanes.call('slow', CALLS.blockJobInfo, args, call);
    if (!found) return undefined;
    return {
      type: flags.nameOf(flags.BLOCK_JOB_TYPES, type),
      bandwidthBytes: Number(bandwidth),
      currentBytes: Number(current),
      endBytes: Number(end),
    };
  },

  /** How fast a block job may go from now on; 0 = as fast as it can. */
  async blockJobSetSpeed(dom: Domain, disk: string, bandwidthBytes: number, call?: CallOptions): Promise<void> {
    const args = { dom, path: disk, bandwidth: BigInt(bandwidthBytes), flags: flags.BLOCK_JOB_SPEED.BANDWIDTH_BYTES };
    await lanes.call('slow', CALLS.blockJobSetSpeed, args, slow(call));
  },

  /** Ends a block job; with `pivot` the domain goes on with the job's result, once the job is `ready`. */
  async blockJobAbort(
    dom: Domain,
    disk: string,
    { pivot, async: inBackground }: { pivot?: boolean; async?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const { PIVOT, ASYNC } = flags.BLOCK_JOB_ABORT;
    const args = { dom, path: disk, flags: bits([pivot, PIVOT], [inBackground, ASYNC]) };
    await lanes.call('slow', CALLS.blockJobAbort, args, slow(call));
  },

  /** Of a running domain. */
  async blockResize(dom: Domain, disk: string, sizeBytes: number, call?: CallOptions): Promise<void> {
    const args = { dom, disk, size: BigInt(sizeBytes), flags: flags.BLOCK_RESIZE.BYTES };
    await lanes.call('slow', CALLS.blockResize, args, slow(call));
  },
});
