import type { BackupRecord } from '../../catalog/contract.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type { Delta } from '../../schemas/delta.ts';
import { checkpointName } from '../../schemas/names.ts';
import type { BackupPlan, BackupTarget, PlannedDisk, VmFacts } from '../../schemas/plan.ts';
import type { TakeBackupRequest } from '../../schemas/requests.ts';
import type { FullReason } from '../../schemas/states.ts';
import { chooseParent, filesBeneath, isMarkedBeneath, problemsBeneath, type ParentCandidate } from './choose-parent.ts';
import type { ControlDependencies } from './dependencies.ts';
import { createParentCandidates } from './parent-candidates.ts';
import { planDisks, type DiskPlan } from './plan-disks.ts';
import { requireSnapshotPossible } from './plan-overlays.ts';
import { isFullLength, whyChainEnds, whyNoChain } from './plan-chain.ts';

/** After so many checkpoints that proved useless at the last moment, none is trusted any more. */
const LOST_AT_MOST = 1;

export const createPlanBackup = ({ catalog }: ControlDependencies) => {
  const parents = createParentCandidates(catalog);
  return {
    /** Every file that an increment on one of the VM's live backups would build on; with its length, as far as it is known. */
    async parentFiles({ vm, repository }: BackupTarget): Promise<{ key: string; storedBytes: number | null }[]> {
      const candidates = await parents.candidates(vm.uuid, repository.name);
      const needed = new Map(candidates.flatMap((candidate) => [...filesBeneath(candidate)]));
      return [...needed].map(([key, storedBytes]) => ({ key, storedBytes }));
    },

    /**
     * Decides what the backup will be: full or incremental, disk by disk, and its place in the chain; and notes it in the
     * catalog as `BackingUp`. `lost` are backups whose checkpoints proved useless when the backup was to begin.
     * @throws NothingToBackUp, ParentNotUsable
     */
    async planBackup(
      backupId: string,
      asked: TakeBackupRequest,
      target: BackupTarget,
      facts: VmFacts,
      lost: string[],
      run: { workflowId: string; runId: string },
    ): Promise<BackupPlan> {
      const { vm, repository } = target;
      const isolated = asked.isolated ?? false;
      const lastChain = await catalog.backups.lastChain(vm.uuid, repository.name);
      const isSnapshot = target.strategy === 'snapshot';
      const deltas = await catalog.deltas.list(vm.uuid);
      if (isSnapshot) requireSnapshotPossible(facts, target);
      const live = await parents.candidates(vm.uuid, repository.name);
      const candidates = isSnapshot ? live.slice(0, 1) : live; // one overlay lies on each disk: the newest backup's
      await parents.noteDamage(candidates, facts.parentProblems);
      const [current] = candidates;
      const firstPosition = current?.ancestry[0]?.backup.position ?? 1;
      const ends = whyChainEnds({
        asked,
        isolated,
        current: current?.record,
        firstPosition,
        chainSize: target.chainSize,
      });
      const knownNumbers = await catalog.backups.diskNumbers(vm.uuid);
      const disksOn = (parent: ParentCandidate | undefined): DiskPlan => {
        const whyAll =
          parent === undefined
            ? undefined
            : lost.length > LOST_AT_MOST || lost.includes(parent.record.backup.id)
              ? 'checkpoint-lost'
              : isMarkedBeneath(parent)
                ? 'parent-damaged'
                : undefined;
        return planDisks({
          overlays: isSnapshot ? { backupId, deltas } : undefined,
          // Of a chain that branches only what is beneath this parent concerns it.
          facts:
            parent === undefined ? facts : { ...facts, parentProblems: problemsBeneath(parent, facts.parentProblems) },
          includeDisks: target.includeDisks,
          excludeDisks: target.excludeDisks,
          parent: parent?.record,
          host: target.host,
          chainReason: ends ?? whyNoChain(lastChain),
          knownNumbers,
          forcedFull: new Map<string, FullReason>(
            whyAll === undefined ? [] : facts.disks.map((disk) => [disk.target, whyAll] as const),
          ),
        });
      };
      const { parent, passedOver } = chooseParent({
        candidates: ends === undefined ? candidates : [],
        problems: facts.parentProblems,
        lost,
        fullDisks: (candidate) => disksOn(candidate).disks.flatMap(({ fullReason }) => fullReason ?? []),
        since:
          asked.since === undefined ? undefined : await parents.requireSince(asked.since, target, candidates, ends),
      });
      const { disks, skippedDisks } = disksOn(parent);
      if (disks.length === 0) {
        const skipped = skippedDisks.map((disk) => `${disk.target} (${disk.reason})`).join(', ');
        throw new HoldfastError(
          'NothingToBackUp',
          `VM ${vm.name} has no disk to back up${skipped === '' ? '' : `: ${skipped}`}`,
        );
      }
      const incremental = disks.some(({ type }) => type === 'incremental');
      const chain = placeInChain({
        backupId,
        isolated,
        incremental,
        parent: parent?.record,
        firstPosition,
        chainSize: target.chainSize,
      });
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
          .filter(({ state, backupId: owner }) => owner !== backupId && state !== 'current' && state !== 'kept')
          .map(({ backupId: owner }) => owner),
        passedOver: incremental ? passedOver : [],
        spentCheckpoints: candidates.map(({ record }) => record.backup.id).filter((id) => hasBrokenBitmap(facts, id)),
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
  };
};

const plannedDelta =
  (backupId: string) =>
  ({ target, overlay }: PlannedDisk): Delta[] => {
    const [top] = overlay?.frozen ?? [];
    if (overlay === undefined || top === undefined) return [];
    return [
      { backupId, target, path: overlay.path, frozenPath: top.path, frozenFormat: top.format, frozenStamp: null },
    ];
  };

const hasBrokenBitmap = ({ disks }: VmFacts, backupId: string): boolean =>
  disks.some(({ bitmaps }) =>
    bitmaps.some(({ name, inconsistent }) => inconsistent && name === checkpointName(backupId)),
  );

/** A chain bears the id of the full it began with, which a merge may have taken away. */
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
  firstPosition: number;
  chainSize: number;
}): ChainPlace {
  const { backupId, isolated, incremental, parent, firstPosition, chainSize } = input;
  if (isolated) return { parentId: null, chainId: null, position: null, endOfChain: false };
  const continues = incremental && parent !== undefined;
  const position = continues ? (parent.backup.position ?? 1) + 1 : 1;
  return {
    parentId: continues ? parent.backup.id : null,
    chainId: continues ? parent.backup.chainId : backupId,
    position,
    endOfChain: isFullLength({ position, firstPosition: continues ? firstPosition : 1, chainSize }),
  };
}
