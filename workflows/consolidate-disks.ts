import {
  ApplicationFailure,
  CancellationScope,
  condition,
  ContinueAsNew,
  continueAsNew,
  defineSignal,
  isCancellation,
  patched,
  setHandler,
  sleep,
  workflowInfo,
} from '@temporalio/workflow';
import type { ConsolidatedVm, Consolidation, PullState, ToldState } from '../schemas/consolidation.ts';
import { consolidateDisksRequest, type ConsolidateDisksRequest } from '../schemas/requests.ts';
import { controlActivities, hostActivities, hostJobs, hostUndo } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { locateVm } from './locate-vm.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';

/** Megabytes (10^6 bytes) per second from now on; 0 = as fast as it goes. */
export const rateSignal = defineSignal<[number]>('setRate');

/** How long one look waits for something to happen: at first shortly, so that progress is soon seen. */
const WATCH_SECONDS = 20;
const OFF_WATCH_SECONDS = 60;
const OFF_SECONDS = 15;
const AGAIN_SECONDS = 10;
/** How long a host that is known to have the VM may be silent before the others are asked again. */
const LOCATE_SECONDS = 300;
const VERIFY_TIME_LIMIT_SECONDS = 30 * 86_400;
/** Temporal keeps a history of at most 50,000 events; a look makes six. */
const MAX_HISTORY_EVENTS = 4000;

/**
 * Makes the disks of a quickly restored VM independent of its backup: has QEMU pull what is stored into the overlays, across
 * stops and starts of the guest, and compares meanwhile every stored byte with the manifest's hashes. It does not end before
 * both are done; ended by force it is begun again, because a VM that depends on a backup must not be forgotten.
 */
export async function consolidateDisks(request: ConsolidateDisksRequest): Promise<ConsolidatedVm> {
  const asked = parseRequest(consolidateDisksRequest, 'consolidateDisks', request);
  const control = controlActivities();
  const view = new OperationView('consolidateDisks', asked.vm);
  let found: Consolidation | undefined;
  try {
    const begun = await control.beginConsolidation(asked, thisRun());
    const { admission, heartbeatSeconds } = begun;
    let consolidation = begun.consolidation;
    found = consolidation;
    const { id, vm, backupId, host, repository } = consolidation;
    view.about({ vm, host, repository, backupId });
    setHandler(rateSignal, (rateMBps) => {
      const rateBytesPerSecond = rateMBps > 0 ? Math.max(1, Math.round(rateMBps * 1e6)) : null;
      consolidation = { ...consolidation, rateBytesPerSecond };
    });
    await admitted(admission, view);
    if (consolidation.state === 'starting' && !(await settle(consolidation))) {
      view.ended('done', 'the restore was undone: the VM had not come to run');
      return { vm, backupId, disks: [] };
    }

    if (asked.undo === true) {
      view.step('putting the former disks back');
      await hostUndo(host).withdrawQuickRestore(consolidation.plan);
      await control.commitConsolidation(id, 'undone');
      view.ended('done', `the quick restore of VM ${vm.name} was undone`);
      return { vm, backupId, disks: [] };
    }

    const verification = new Verification(consolidation, heartbeatSeconds, view);
    const outcome = await pull(() => consolidation, verification, view);
    if (outcome === 'gone') {
      await control.commitConsolidation(id, 'gone');
      view.ended('done', `VM ${vm.name} is on host ${host} no more`);
      return { vm, backupId, disks: [] };
    }
    view.step('comparing what is stored with its hashes');
    const damage = await verification.damage();
    if (outcome === 'failed' && damage !== null) throw await givenUp(consolidation, damage);
    return await CancellationScope.nonCancellable(async () => {
      view.step('tidying up');
      await hostActivities(host).finishConsolidation(consolidation, damage !== null);
      await control.commitConsolidation(id, damage === null ? 'consolidated' : 'damaged');
      if (damage !== null) throw damaged(consolidation, damage);
      view.ended('done', `the disks of VM ${vm.name} depend on nothing, every byte verified`);
      const disks = consolidation.prepared.disks.map(({ target, path }) => ({ target, path, verified: true }));
      return { vm, backupId, disks };
    });
  } catch (error) {
    if (error instanceof ContinueAsNew) throw error;
    if (isCancellation(error) && found !== undefined && asked.undo !== true) await stopped(found, view);
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

/** A restore that was ended by force in between: either its VM runs on the backup, or it is undone. */
async function settle({ id, plan, host, prepared }: Consolidation): Promise<boolean> {
  const control = controlActivities();
  const { booted } = await hostUndo(host).settleQuickRestore(plan);
  if (booted) {
    const disks = prepared.disks.map(({ target, path }) => ({ target, path, verified: false }));
    await control.commitQuickRestore(plan, { vm: prepared.vm, disks });
    return true;
  }
  await control.commitConsolidation(id, 'undone');
  return false;
}

/** Goes on until no disk depends on the backup. `failed`: the backup is damaged, and cannot be pulled to its end. */
async function pull(
  current: () => Consolidation,
  verification: Verification,
  view: OperationView,
): Promise<'done' | 'gone' | 'failed'> {
  const control = controlActivities();
  // Before: a look told only what changed while it waited, and the job slept between looks, deaf to what happened.
  const isPrompt = patched('pull-told-at-once');
  let noted = current().rateBytesPerSecond;
  let told: ToldState | null = null;
  let looksAlike = 0;
  for (;;) {
    const consolidation = current();
    const hasNewRate = (): boolean => current() !== consolidation;
    const { id, host, vm, rateBytesPerSecond } = consolidation;
    if (rateBytesPerSecond !== noted) {
      await control.noteConsolidationRate(id, rateBytesPerSecond);
      noted = rateBytesPerSecond;
    }
    if (verification.isOver && workflowInfo().historyLength > MAX_HISTORY_EVENTS) {
      await continueAsNew<typeof consolidateDisks>({ vm: vm.uuid });
    }
    let now: PullState;
    try {
      if (isPrompt) {
        const waitSeconds = told?.state === 'off' ? OFF_WATCH_SECONDS : Math.min(WATCH_SECONDS, 2 ** looksAlike);
        const known = told;
        const look = () => hostActivities(host).watchPull(consolidation, waitSeconds, known);
        const found = await endedBy(hasNewRate, look);
        if (found === null) continue;
        now = found;
      } else now = await hostActivities(host).watchPull(consolidation, WATCH_SECONDS);
    } catch (error) {
      if (isCancellation(error)) throw error;
      view.waitingFor(`waiting for host ${host}: ${causeOf(error)}`);
      await sleep(AGAIN_SECONDS * 1000);
      continue;
    }
    looksAlike = now.state === told?.state ? looksAlike + 1 : 0;
    told = { state: now.state, ...(now.paused === undefined ? {} : { paused: now.paused }) };
    if (now.resumed) view.note('the guest stood still because the repository could not be read; it goes on');
    switch (now.state) {
      case 'done':
        return 'done';
      case 'gone': {
        const elsewhere = await whereElse(consolidation, view);
        if (elsewhere === undefined) return 'gone';
        view.waitingFor(`waiting for ${elsewhere}: its disks still depend on the backup`);
        await sleep(OFF_SECONDS * 1000);
        break;
      }
      case 'off':
        view.waitingFor(`waiting for VM ${vm.name} to be started: its disks are pulled while it runs`);
        if (!isPrompt) await sleep(OFF_SECONDS * 1000);
        break;
      case 'waiting':
        if (now.pullFailed !== null && verification.hasFailed) return 'failed';
        view.waitingFor(now.waitingFor ?? 'waiting');
        if (!isPrompt) await condition(hasNewRate, AGAIN_SECONDS * 1000);
        else if (now.pullFailed !== null) {
          await condition(() => hasNewRate() || verification.hasFailed, AGAIN_SECONDS * 1000);
        }
        break;
      case 'pulling':
        view.step(`pulling ${now.disks.map(progressOf).join(', ')}${rateText(consolidation)}`);
    }
  }
}

/** Null when the act was ended because `isOver` came to hold. */
async function endedBy<T>(isOver: () => boolean, act: () => Promise<T>): Promise<T | null> {
  return await CancellationScope.cancellable(async () => {
    const scope = CancellationScope.current();
    condition(isOver).then(
      () => scope.cancel(),
      () => undefined, // cancelled with the scope
    );
    try {
      return await act();
    } catch (error) {
      if (isOver() && isCancellation(error)) return null;
      throw error;
    } finally {
      scope.cancel(); // nobody waits for the condition any more
    }
  });
}

/** A VM that was moved to another host is not gone: it still reads the backup, and is pulled where it was restored. */
async function whereElse({ vm, host }: Consolidation, view: OperationView): Promise<string | undefined> {
  try {
    const found = await locateVm(vm.uuid, view, LOCATE_SECONDS);
    return `VM ${vm.name}, which is on host ${found.host} now, to come back to ${host}`;
  } catch (error) {
    if (isCancellation(error)) throw error;
    return failureTypeOf(error) === 'VmNotFound' ? undefined : causeOf(error);
  }
}

const progressOf = ({ target, done, pulledBytes, totalBytes }: PullState['disks'][number]): string =>
  `${target} ${done ? 'done' : `${totalBytes === 0 ? 0 : Math.floor((pulledBytes / totalBytes) * 100)} %`}`;

const rateText = ({ rateBytesPerSecond }: Consolidation): string =>
  rateBytesPerSecond === null ? '' : `, at most ${rateBytesPerSecond / 1e6} MB/s`;

/** The hashing of what is stored, beside the pull. */
class Verification {
  isOver = false;
  hasFailed = false;
  readonly #result: Promise<{ damage: string | null } | { error: unknown }>;

  constructor(consolidation: Consolidation, heartbeatSeconds: number, view: OperationView) {
    this.#result = this.#run(consolidation, heartbeatSeconds, view);
  }

  /** What is wrong with the backup; null when every byte is right. */
  async damage(): Promise<string | null> {
    const result = await this.#result;
    if ('error' in result) throw result.error;
    return result.damage;
  }

  async #run(
    consolidation: Consolidation,
    heartbeatSeconds: number,
    view: OperationView,
  ): Promise<{ damage: string | null } | { error: unknown }> {
    const jobs = hostJobs(consolidation.host, { timeLimitSeconds: VERIFY_TIME_LIMIT_SECONDS, heartbeatSeconds });
    const { id, plan, prepared } = consolidation;
    try {
      if (consolidation.verifiedAt !== null) return { damage: null };
      if (consolidation.damage !== null) {
        this.hasFailed = true; // what was pulled before stays what it is, also if the files are right by now
        return { damage: consolidation.damage };
      }
      await jobs.verifyChain({ plan, prepared });
      await controlActivities().noteConsolidationVerified(id);
      view.note('every stored byte was compared with its hash');
      return { damage: null };
    } catch (error) {
      const isDamage = ['IntegrityMismatch', 'BackupFileMissing'].includes(failureTypeOf(error));
      if (!isDamage) return { error };
      this.hasFailed = true;
      await controlActivities().noteConsolidationDamage(id, causeOf(error));
      view.note(`the backup is damaged: ${causeOf(error)}`);
      return { damage: causeOf(error) };
    } finally {
      this.isOver = true;
    }
  }
}

async function stopped(consolidation: Consolidation, view: OperationView): Promise<void> {
  await CancellationScope.nonCancellable(async () => {
    const { id, host, vm } = consolidation;
    await hostUndo(host)
      .stopPull(consolidation)
      .catch((error: unknown) => view.note(`the pull was not stopped: ${causeOf(error)}`));
    await controlActivities().stopConsolidation(
      id,
      'stopped',
      `its consolidation was stopped by request; go on with: holdfast consolidation resume ${vm.name}`,
    );
  });
}

async function givenUp(consolidation: Consolidation, damage: string): Promise<ApplicationFailure> {
  await controlActivities().stopConsolidation(consolidation.id, 'damaged', damage);
  return damaged(consolidation, damage);
}

const damaged = ({ vm, prepared }: Consolidation, damage: string): ApplicationFailure =>
  ApplicationFailure.create({
    type: 'IntegrityMismatch',
    nonRetryable: true,
    message:
      `VM ${vm.name} was restored from a backup that is damaged: ${damage}; restore another one. Disks that were in their ` +
      `places are kept: ${prepared.disks.map(({ formerPath }) => formerPath).join(', ')}`,
  });
