import { CancellationScope, isCancellation, log, uuid4 } from '@temporalio/workflow';
import type { AbortedBackup } from '../activities/host/end-backup.ts';
import type { Backup } from '../schemas/backup.ts';
import type { CompletedBackup } from '../schemas/catalog.ts';
import type { BackupPlan, BackupTarget, BegunBackup, CopiedDisk } from '../schemas/plan.ts';
import { takeBackupRequest, type TakeBackupRequest } from '../schemas/requests.ts';
import { controlActivities, hostActivities, hostMerges, hostTransfers, hostUndo } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { allOrStop } from './all-or-stop.ts';
import { Compensations } from './compensations.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { startFollowUps } from './follow-ups.ts';
import { settleDeltas } from './settle-deltas.ts';
import { lockPublished } from './lock-published.ts';
import { locateVm } from './locate-vm.ts';
import { thisRun } from './this-run.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { withTimeLimit } from './time-limit.ts';

/** Backs up one VM: freezes a point in time, copies what changed since its parent, publishes the backup. */
export async function takeBackup(request: TakeBackupRequest): Promise<Backup> {
  const asked = parseRequest(takeBackupRequest, 'takeBackup', request);
  const control = controlActivities();
  const backupId = uuid4(); // chosen before the first effect: every step can be repeated and undone by this name
  const view = new OperationView('takeBackup', asked.vm);
  const compensations = new Compensations();
  const undone: Pick<AbortedBackup, 'published'> = { published: null };
  try {
    view.step('looking for the VM');
    const limits = await control.checkRequest(asked); // a wrong repository or offering fails before any host is asked
    const vm = await locateVm(asked.vm, view, limits.timeLimitSeconds);
    const target = await control.resolveTarget(asked, vm);
    view.about({
      vm: target.vm,
      host: target.host,
      repository: target.repository.name,
      tenant: target.tenant,
      backupId,
    });

    view.step('asking for admission');
    await admitted(
      {
        operationId: backupId,
        operation: 'takeBackup',
        ...thisRun(),
        vmUuid: target.vm.uuid,
        chain: null,
        host: target.host,
        repository: target.repository.name,
        tenant: target.tenant,
        priority: target.priority,
      },
      view,
      asked.startBefore,
    );
    const transfer = hostTransfers(target.host, limits);
    return await withTimeLimit(limits.timeLimitSeconds, `backup of VM ${target.vm.name}`, async () => {
      compensations.add('abort backup job', async () => {
        const aborted = await hostUndo(target.host).abortBackup(backupId, target);
        undone.published = aborted.published;
        if (aborted.leftInRepository !== null) view.note(aborted.leftInRepository);
      });
      if (target.strategy === 'snapshot') {
        compensations.add('merge the overlays back', () => mergeBack(backupId, target, view));
      }
      const { plan, begun } = await begin(backupId, asked, target, view);
      view.step(`copying ${plan.disks.map((disk) => `${disk.target} (${disk.type})`).join(', ')}`);
      const thaw = begun.thawPending ? hostUndo(target.host).ensureThawed(target) : undefined;
      if (begun.notFrozen !== null) view.note(`not quiesced: ${begun.notFrozen}`);
      const copies = await allOrStop(
        begun.exports.map(
          (disk) => () =>
            transfer.copyDisk.executeWithOptions({ summary: `${target.vm.name} ${disk.target}` }, [plan, disk]),
        ),
      );
      await thaw; // the guest may yet freeze: the run is not over before its agent confirms that it will not stay so
      return await publish(plan, begun, copies, view);
    });
  } catch (error) {
    view.step(isCancellation(error) ? 'cancelled, undoing' : 'failed, undoing');
    const left = (await compensations.run()).map((failed) => ({ step: failed.step, cause: causeOf(failed.error) }));
    if (undone.published !== null) return await list(undone.published, causeOf(error), view);
    await CancellationScope.nonCancellable(async () => {
      await control.recordFailure(backupId, failureTypeOf(error), causeOf(error), left);
      await control.releaseAdmission(backupId);
    });
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

/** How often a backup is planned anew because its VM was started or stopped between plan and beginning. */
const PLANS = 4;

/**
 * Plans the backup and freezes its instant. Plans again when a checkpoint turns out lost: on an older backup
 * whose checkpoint lives, then in full; and when the VM was started or stopped meanwhile.
 */
async function begin(
  backupId: string,
  asked: TakeBackupRequest,
  target: BackupTarget,
  view: OperationView,
): Promise<{ plan: BackupPlan; begun: BegunBackup }> {
  const control = controlActivities();
  const host = hostActivities(target.host);
  const lost: string[] = []; // parents whose checkpoints proved useless
  for (let plans = 1; ; plans += 1) {
    view.step('planning');
    const parents = await control.parentFiles(target); // only now: nothing else can change the chain
    const facts = await host.inspectVm(target, parents);
    const plan = await control.planBackup(backupId, asked, target, facts, lost, thisRun());
    if (plan.mergeFirst !== undefined && plans < PLANS) {
      await settleDeltas(target, { keep: [], drop: plan.mergeFirst }, view); // strategy `snapshot` is over on this VM
      continue;
    }
    view.step('freezing a point in time');
    try {
      const begun = await host.beginBackup(plan);
      if (begun.deltas !== undefined) await control.recordDeltas(target.vm.uuid, begun.deltas);
      return { plan, begun };
    } catch (error) {
      const type = failureTypeOf(error);
      const isNews = (type === 'CheckpointLost' && plan.type === 'incremental') || type === 'VmStateChanged';
      if (!isNews || plans === PLANS) throw error;
      if (type === 'CheckpointLost' && plan.parentId !== null) lost.push(plan.parentId);
      log.warn('planning again', { vm: target.vm.name, cause: causeOf(error) });
      view.note(causeOf(error));
    }
  }
}

/** From here the backup comes about, also when it is cancelled: what is copied is worth more than an early end. */
async function publish(
  plan: BackupPlan,
  begun: BegunBackup,
  copies: CopiedDisk[],
  view: OperationView,
): Promise<Backup> {
  return await CancellationScope.nonCancellable(async () => {
    const { host } = plan.target;
    view.step('ending the backup job');
    await hostActivities(host).endBackup(plan);
    view.step('writing the manifest');
    const completed = await hostActivities(host).publishBackup(plan, begun, copies);
    return await conclude(plan, completed, view);
  });
}

/** The manifest was written, but its answer was lost for good: the backup exists, so it comes about. */
async function list(
  published: NonNullable<AbortedBackup['published']>,
  cause: string,
  view: OperationView,
): Promise<Backup> {
  view.note(`the manifest is written, though a step failed: ${cause}`);
  return await CancellationScope.nonCancellable(async () => {
    const problem = await lockPublished(published);
    if (problem !== null) view.note(problem);
    return await conclude(published.plan, published.completed, view);
  });
}

async function conclude(plan: BackupPlan, completed: CompletedBackup, view: OperationView): Promise<Backup> {
  const control = controlActivities();
  const backup = await control.commitBackup(plan, completed);
  view.step('tidying up');
  if (plan.target.strategy === 'snapshot') await mergeOlder(plan.target, view);
  await tidy(plan, view);
  await control.releaseAdmission(plan.backupId);
  await startFollowUps(plan);
  view.ended('done', `backup ${backup.id} of VM ${plan.target.vm.name} is stored`);
  return backup;
}

/** Undo of strategy `snapshot`: the VM goes on with the images it had before. */
async function mergeBack(backupId: string, target: BackupTarget, view: OperationView): Promise<void> {
  const control = controlActivities();
  await hostMerges(target.host).undoSnapshot(backupId, target);
  await settleDeltas(target, await control.deltasOnVm(target.vm.uuid), view);
}

/** One overlay per disk stays, the one the next backup builds on; none where nothing will. The backup is stored already. */
async function mergeOlder(target: BackupTarget, view: OperationView): Promise<void> {
  const control = controlActivities();
  try {
    const found = await control.deltasOnVm(target.vm.uuid);
    if (found.drop.length > 0) await settleDeltas(target, found, view);
  } catch (error) {
    await control.recordMergeFailure(target.vm.uuid, causeOf(error));
    view.note(`overlays stay on the disks of VM ${target.vm.name}: ${causeOf(error)}`);
  }
}

/** What cannot be tidied now is noted and goes with the next backup; it fails nothing. */
async function tidy({ backupId, target }: BackupPlan, view: OperationView): Promise<void> {
  const control = controlActivities();
  const host = hostActivities(target.host);
  try {
    const stale = await control.staleCheckpoints(target.vm.uuid);
    await allOrStop<unknown>([
      () => host.forgetBackup(backupId),
      async () => {
        if (stale.length > 0) await host.removeCheckpoints(target, stale);
      },
    ]);
    await control.checkpointsRemoved(target.vm.uuid, stale);
  } catch (error) {
    view.note(`an older checkpoint or the host's notes stay until the next backup: ${causeOf(error)}`);
  }
}
