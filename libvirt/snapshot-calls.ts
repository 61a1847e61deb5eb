import { CALLS } from './calls.ts';
import { bits, slow } from './calling.ts';
import type { CallOptions } from './connection.ts';
import * as flags from './flags.ts';
import type { Lanes } from './lanes.ts';
import type { Domain } from './protocol.ts';

export interface SnapshotCreateOptions {
  diskOnly?: boolean;
  noMetadata?: boolean;
  atomic?: boolean;
  quiesce?: boolean;
  reuseExternal?: boolean;
  redefine?: boolean;
  current?: boolean;
}

/** Snapshots of a domain. */
export const snapshotCalls = (lanes: Lanes) => ({
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
    return (await lanes.call('slow', CALLS.snapshotCreate, { dom, xml, flags: wanted }, slow(call))).snap.name;
  },

  /** Names, parents before children. */
  async snapshotList(dom: Domain, call?: CallOptions): Promise<string[]> {
    const args = { dom, needResults: 1, flags: flags.SNAPSHOT_LIST.TOPOLOGICAL };
    return (await lanes.call('control', CALLS.listAllSnapshots, args, call)).snapshots.map(({ name }) => name);
  },

  async snapshotXml(dom: Domain, name: string, call?: CallOptions): Promise<string> {
    return (await lanes.call('control', CALLS.snapshotGetXml, { snap: { dom, name }, flags: 0 }, call)).xml;
  },

  async snapshotDelete(
    dom: Domain,
    name: string,
    { metadataOnly, children }: { metadataOnly?: boolean; children?: boolean } = {},
    call?: CallOptions,
  ): Promise<void> {
    const { METADATA_ONLY, CHILDREN } = flags.SNAPSHOT_DELETE;
    const args = { snap: { dom, name }, flags: bits([metadataOnly, METADATA_ONLY], [children, CHILDREN]) };
    await lanes.call('slow', CALLS.snapshotDelete, args, slow(call));
  },
});
