import type { BackupRecord } from '../../catalog/contract.ts';
import { manifestKey, sumsKey } from '../../repository/layout.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Delta } from '../../schemas/delta.ts';
import type { BackupPlan, BackupTarget, PlannedDisk, VmFacts } from '../../schemas/plan.ts';
import type { TakeBackupRequest } from '../../schemas/requests.ts';
import type { FullReason } from '../../schemas/states.ts';
import type { ControlDependencies } from './dependencies.ts';
import { planDisks } from './plan-disks.ts';
import { requireSnapshotPossible } from './plan-overlays.ts';
import { whyChainEnds, whyNoChain } from './plan-chain.ts';

export const createPlanBackup = ({ catalog }: ControlDependencies) => ({
  /** Every file that an increment on the VM's current backup would build on; with its length, as far as it is known. */
  async parentFiles({ vm, repository }: BackupTarget): Promise<{ key: string; storedBytes: number | null }[]> {
    const current = await catalog.backups.current(vm.uuid, repository.name);
    if (current === undefined) return [];
    const ancestry = await catalog.backups.ancestry(current.backup.id);
    const needed = new Map<string, number | null>();
    // Of each disk back to its last full: what an older increment of it lacks concerns nobody any more.
    let open = new Set(current.disks.map(({ target }) => target));
    for (const { backup, disks } of ancestry.toReversed()) {
      const concerned = disks.filter(({ target }) => open.has(target));
      if (concerned.length === 0) break;
      needed.set(manifestKey(vm.uuid, backup.id), null); // without it the chain cannot be restored
      for (const { file, storedBytes } of concerned) needed.set(file, storedBytes).set(sumsKey(file), null);
      open = new Set(concerned.filter(({ type }) => type === 'incremental').map(({ target }) => target));
    }
    return [...needed].map(([key, storedBytes]) => ({ key, storedBytes }));
  },

  /**
   * Decides what the backup will be: full or incremental, disk by disk, and its place in the chain; and notes it in the
   * catalog as `BackingUp`. With `checkpointLost` the parent's checkpoint proved useless when the backup was to begin.
   * @throws NothingToBackUp
   */
  async planBackup(
    backupId: string,
    asked: TakeBackupRequest,
    target: BackupTarget,
    facts: VmFacts,
    checkpointLost: boolean,
    run: { workflowId: string; runId: string },
  ): Promise<BackupPlan> {
    const { vm, repository } = target;
    const isolated = asked.isolated ?? false;
    const lastChain = await catalog.backups.lastChain(vm.uuid, repository.name);
    const current = await catalog.backups.current(vm.uuid, repository.name);
    const ends = whyChainEnds({ asked, isolated, current, chainSize: target.chainSize });
    const parent = ends === undefined ? current : undefined;
    const isSnapshot = target.strategy === 'snapshot';
    const deltas = await catalog.deltas.list(vm.uuid);
    if (isSnapshot) requireSnapshotPossible(facts, target);
    const { disks, skippedDisks } = planDisks({
      overlays: isSnapshot ? { backupId, deltas } : undefined,
      facts,
      includeDisks: target.includeDisks,
      excludeDisks: target.excludeDisks,
      parent,
      chainReason: ends ?? whyNoChain(lastChain),
      knownNumbers: await catalog.backups.diskNumbers(vm.uuid),
      forcedFull: new Map<string, FullReason>(
        checkpointLost ? facts.disks.map((disk) => [disk.target, 'checkpoint-lost'] as const) : [],
      ),
    });
    if (disks.length === 0) {
      const skipped = skippedDisks.map((disk) => `${disk.target} (${disk.reason})`).join(', ');
      throw new HoldfastError(
        'NothingToBackUp',
        `VM ${vm.name} has no disk to back up${skipped === '' ? '' : `: ${skipped}`}`,
      );
    }
    const incremental = disks.some(({ type }) => type === 'incremental');
    const chain = placeInChain({ backupId, isolated, incremental, parent, chainSize: target.chainSize });
    await catalog.backups.create({
      id: backupId,
      vmUuid: vm.uuid,
      vmName: vm.name,
      type: incremental ? 'incremental' : 'full',
      ...chain,
      isolated,
      host: target.host,
      repository: repository.name,
      compression: target.compression,
      strategy: target.strategy,
      offering: target.offering,
      requestedBy: asked.requestedBy ?? null,
      ...run,
    });
    const checkpoint = !isolated && !chain.endOfChain && disks.some(({ holdsBitmap }) => holdsBitmap);
    const known = await catalog.checkpoints.list(vm.uuid);
    if (checkpoint) await catalog.checkpoints.put({ vmUuid: vm.uuid, backupId, state: 'pending', xml: null });
    // Before the act: whatever happens, it is known what may be on the VM.
    if (isSnapshot) await catalog.deltas.put(vm.uuid, disks.flatMap(plannedDelta(backupId)));
    // A note of what went wrong before stays until a backup succeeds.
    await catalog.vms.setState(vm.uuid, 'BackingUp', (await catalog.vms.find(vm.uuid))?.error ?? null);
    return {
      backupId,
      target,
      type: incremental ? 'incremental' : 'full',
      isolated,
      ...chain,
      disks,
      skippedDisks,
      stopped: facts.power === 'shutoff',
      checkpoint,
      // The VM is ours alone now: a pending checkpoint that is not of this backup is of a run that ended by force.
      staleCheckpoints: known
        .filter(({ state, backupId: owner }) => owner !== backupId && state !== 'current')
        .map(({ backupId: owner }) => owner),
      requestedBy: asked.requestedBy ?? null,
      ...(isSnapshot || deltas.length === 0 ? {} : { mergeFirst: deltas }),
    };
  },

  /** Backups whose checkpoints are on the VM though nothing will build on them. */
  async staleCheckpoints(vmUuid: string): Promise<string[]> {
    const known = await catalog.checkpoints.list(vmUuid);
    return known.filter(({ state }) => state === 'retired').map(({ backupId }) => backupId);
  },

  async checkpointsRemoved(vmUuid: string, backupIds: string[]): Promise<void> {
    for (const backupId of backupIds) await catalog.checkpoints.remove(vmUuid, backupId);
  },
});

const plannedDelta =
  (backupId: string) =>
  ({ target, overlay }: PlannedDisk): Delta[] => {
    const [top] = overlay?.frozen ?? [];
    if (overlay === undefined || top === undefined) return [];
    return [
      { backupId, target, path: overlay.path, frozenPath: top.path, frozenFormat: top.format, frozenStamp: null },
    ];
  };

/** A chain bears the id of its full. */
interface ChainPlace {
  parentId: string | null;
  chainId: string | null;
  position: number | null;
  endOfChain: boolean;
}

function placeInChain(input: {
  backupId: string;
  isolated: boolean;
  incremental: boolean;
  parent: BackupRecord | undefined;
  chainSize: number;
}): ChainPlace {
  const { backupId, isolated, incremental, parent, chainSize } = input;
  if (isolated) return { parentId: null, chainId: null, position: null, endOfChain: false };
  const continues = incremental && parent !== undefined;
  const position = continues ? (parent.backup.position ?? 1) + 1 : 1;
  return {
    parentId: continues ? parent.backup.id : null,
    chainId: continues ? parent.backup.chainId : backupId,
    position,
    endOfChain: chainSize >= 1 && position >= chainSize,
  };
}
