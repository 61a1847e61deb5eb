import type { BackupRecord, Catalog, CheckpointRecord } from '../catalog/contract.ts';
import type { Backup } from '../schemas/backup.ts';
import type { Delta } from '../schemas/delta.ts';
import { backupOfCheckpoint, checkpointName } from '../schemas/names.ts';
import type { VmProbe } from '../schemas/probe.ts';

/** Where a checkpoint is; null where nobody could be asked. */
export interface CheckpointPlaces {
  /** libvirt has a record of it. */
  inDomain: boolean | null;
  /** Disks whose active image has its bitmap. */
  inImages: string[] | null;
}

export interface ShownBackup extends Backup, CheckpointPlaces {
  /** What the catalog knows of its checkpoint; null where there is none. */
  checkpoint: CheckpointRecord['state'] | null;
  /** Why it cannot be relied on; null as far as is known. */
  damage: string | null;
  pinned: boolean;
  children: string[];
  /** Targets of disks that lie on its overlay, by strategy `snapshot`. */
  overlays: string[];
}

export interface ShownChain {
  id: string | null;
  open: boolean;
  repository: string;
  /** Each after its parent. */
  backups: ShownBackup[];
}

export interface ShownCheckpoint extends CheckpointPlaces {
  name: string;
}

export interface ChainTree {
  chains: ShownChain[];
  /** Checkpoints and bitmaps of ours that no backup shown has. */
  strays: ShownCheckpoint[];
  /** Of other tools: never touched. */
  others: ShownCheckpoint[];
}

/** A VM's backups as the catalog has them, oldest first, with which of their checkpoints its host shows. */
export async function chainTree(catalog: Catalog, vmUuid: string, probe: VmProbe | null): Promise<ChainTree> {
  const all = (await catalog.backups.list({ vm: vmUuid, all: true })).filter(
    ({ state, vm }) => state !== 'Expunged' && vm.uuid === vmUuid,
  );
  const records = await Promise.all(all.toReversed().map(({ id }) => catalog.backups.find(id)));
  const open = new Set<string>();
  for (const repository of new Set(all.map((one) => one.repository))) {
    const last = await catalog.backups.lastChain(vmUuid, repository);
    if (last?.open === true) open.add(last.id);
  }
  return arrange(
    records.filter((record) => record !== undefined),
    { checkpoints: await catalog.checkpoints.list(vmUuid), deltas: await catalog.deltas.list(vmUuid) },
    open,
    probe,
  );
}

/** @param records oldest first */
export function arrange(
  records: readonly BackupRecord[],
  {
    checkpoints,
    deltas,
  }: {
    checkpoints: readonly Pick<CheckpointRecord, 'backupId' | 'state'>[];
    deltas: readonly Pick<Delta, 'backupId' | 'target'>[];
  },
  open: ReadonlySet<string>,
  probe: VmProbe | null,
): ChainTree {
  const known = new Map(checkpoints.map(({ backupId, state }) => [backupId, state]));
  const chains = new Map<string, ShownChain>();
  for (const { backup, damage, pinned } of records) {
    const key = backup.chainId ?? `alone ${backup.id}`;
    const { repository, chainId } = backup;
    const shown = chains.get(key) ?? {
      id: chainId,
      open: chainId !== null && open.has(chainId),
      repository,
      backups: [],
    };
    shown.backups.push({
      ...backup,
      checkpoint: known.get(backup.id) ?? null,
      ...placesOf(checkpointName(backup.id), probe),
      damage,
      pinned,
      overlays: deltas.filter(({ backupId }) => backupId === backup.id).map(({ target }) => target),
      children: records.filter((one) => one.backup.parentId === backup.id).map((one) => one.backup.id),
    });
    chains.set(key, shown);
  }
  const shownIds = new Set(records.map(({ backup }) => backup.id));
  const found = namesOn(probe).map((name) => ({ name, ...placesOf(name, probe) }));
  return {
    chains: [...chains.values()],
    strays: found.filter(({ name }) => isStray(backupOfCheckpoint(name), shownIds)),
    others: found.filter(({ name }) => backupOfCheckpoint(name) === undefined),
  };
}

const isStray = (backupId: string | undefined, shown: ReadonlySet<string>): boolean =>
  backupId !== undefined && !shown.has(backupId);

const namesOn = (probe: VmProbe | null): string[] => [
  ...new Set([
    ...(probe?.checkpoints ?? []).map(({ name }) => name),
    ...(probe?.images ?? []).flatMap(({ bitmaps }) => bitmaps.map(({ name }) => name)),
  ]),
];

const placesOf = (name: string, probe: VmProbe | null): CheckpointPlaces =>
  probe === null
    ? { inDomain: null, inImages: null }
    : {
        inDomain: probe.checkpoints.some((checkpoint) => checkpoint.name === name),
        inImages: probe.images
          .filter(({ bitmaps }) => bitmaps.some((bitmap) => bitmap.name === name))
          .map(({ target }) => target),
      };
