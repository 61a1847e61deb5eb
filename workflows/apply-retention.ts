import {
  ApplicationFailure,
  ContinueAsNew,
  continueAsNew,
  executeChild,
  isCancellation,
  workflowInfo,
} from '@temporalio/workflow';
import type { JudgedRetention } from '../activities/control/judge-retention.ts';
import { applyRetentionRequest, type ApplyRetentionRequest } from '../schemas/requests.ts';
import { controlActivities } from './activity-proxies.ts';
import { deleteUnderAdmission } from './delete-under-admission.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';

export interface VmRetention {
  vm: { uuid: string; name: string };
  offering: string;
  dryRun: boolean;
  keptCount: number;
  /** The newest thousand. */
  kept: { id: string; instant: string | null; keptBy: string[] }[];
  /** More that go, with the next run. */
  left: number;
  /** Hidden ones give their bytes back when the last that is built on them goes. */
  removed: { id: string; instant: string | null; outcome: 'hidden' | 'deleted'; freedBytes: number; copyIn?: string }[];
  freedBytes: number;
}

export interface FleetRetention {
  dryRun: boolean;
  vms: number;
  kept: number;
  removed: number;
  freedBytes: number;
  /** At most a hundred; `problemCount` tells of all. */
  problems: { vm: string; type: string; message: string }[];
  problemCount: number;
}

/** A fleet's run so far, carried from one history to the next. */
type Carried = FleetRetention & { after: string | null };

/** How many VMs are worked on at once, and asked for at a time. */
const LANES = 8;
const PAGE = 100;
const PROBLEMS_SHOWN = 100;

/**
 * Deletes what the rules of a VM's offering let go, newest first, each backup under an admission of its own, so that a
 * backup of the VM never waits long. Without a VM: a run for each VM whose offering has retention; what fails of one is
 * noted, the others go on.
 */
export async function applyRetention(
  request: ApplyRetentionRequest,
  carried?: Carried,
): Promise<VmRetention | FleetRetention> {
  const { vm, dryRun = false } = parseRequest(applyRetentionRequest, 'applyRetention', request);
  const view = new OperationView('applyRetention', vm ?? '');
  try {
    return vm === undefined ? await applyToFleet(dryRun, carried, view) : await applyToVm(vm, dryRun, view);
  } catch (error) {
    if (!(error instanceof ContinueAsNew)) view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

async function applyToVm(name: string, dryRun: boolean, view: OperationView): Promise<VmRetention> {
  const control = controlActivities();
  view.step('judging the backups');
  const { vm, offering, keptCount, kept, going: own, left, copies } = await control.judgeRetention(name);
  const going: { judged: JudgedRetention; of: { copyIn?: string } }[] = [
    ...own.map((judged) => ({ judged, of: {} })),
    ...(copies?.going ?? []).map((judged) => ({ judged, of: { copyIn: copies?.repository ?? '' } })),
  ];
  view.about({ vm });
  const result = {
    vm,
    offering,
    dryRun,
    keptCount,
    kept: kept.map(({ id, instant, keptBy }) => ({ id, instant, keptBy })),
    left,
  };
  if (dryRun) {
    const removed = going.flatMap(({ judged, of }) => wouldBeRemoved(judged).map((one) => ({ ...one, ...of })));
    view.ended('done', 'a dry run: nothing was deleted');
    return { ...result, removed, freedBytes: sumOf(removed) };
  }
  const removed: VmRetention['removed'] = [];
  const instants = new Map(going.map(({ judged: { id, instant } }) => [id, instant]));
  const problems: { type: string; message: string }[] = [];
  for (const { judged, of } of going) {
    const { id } = judged;
    const { copyIn } = of;
    if (removed.some((gone) => gone.id === id && gone.copyIn === copyIn)) continue; // with its last descendant
    const where = copyIn === undefined ? [] : ([copyIn] as const);
    try {
      const plan = await deleteUnderAdmission(
        {
          backupId: id,
          force: false,
          repository: copyIn,
          stillMeant: () => control.retentionLetsGo(vm.uuid, id, ...where),
        },
        view,
      );
      if (plan === null) continue;
      if (plan.hide) removed.push({ id, instant: instants.get(id) ?? null, outcome: 'hidden', freedBytes: 0, ...of });
      for (const gone of plan.expunge) {
        const instant = instants.get(gone.id) ?? null;
        removed.push({ id: gone.id, instant, outcome: 'deleted', freedBytes: gone.storedBytes, ...of });
      }
    } catch (error) {
      if (isCancellation(error)) throw error;
      const type = failureTypeOf(error);
      if (type === 'BackupNotFound') continue; // somebody else deleted it meanwhile
      problems.push({ type, message: `backup ${id}: ${causeOf(error)}` });
      if (type !== 'BackupNotDeletable' && type !== 'BackupLocked') break; // the others would not go either
    }
  }
  const freedBytes = sumOf(removed);
  const [problem] = problems;
  const told = `${removed.length} backups of VM ${vm.name} removed, ${keptCount} kept, ${freedBytes} bytes freed`;
  const message = [told, ...problems.map((one) => one.message)].join('; ');
  if (removed.length + problems.length > 0) await control.recordRetention(vm.uuid, message, problem !== undefined);
  if (problem !== undefined) {
    throw ApplicationFailure.create({ type: problem.type, nonRetryable: true, message });
  }
  view.ended('done', told);
  return { ...result, removed, freedBytes };
}

const wouldBeRemoved = ({ id, instant, outcome, storedBytes }: JudgedRetention): VmRetention['removed'] =>
  outcome === 'kept' ? [] : [{ id, instant, outcome, freedBytes: outcome === 'deleted' ? storedBytes : 0 }];

const sumOf = (removed: VmRetention['removed']): number => removed.reduce((sum, { freedBytes }) => sum + freedBytes, 0);

async function applyToFleet(
  dryRun: boolean,
  carried: Carried | undefined,
  view: OperationView,
): Promise<FleetRetention> {
  const totals: Carried = carried ?? {
    dryRun,
    vms: 0,
    kept: 0,
    removed: 0,
    freedBytes: 0,
    problems: [],
    problemCount: 0,
    after: null,
  };
  for (;;) {
    const page = await controlActivities().vmsWithRetention(totals.after, PAGE);
    const last = page.at(-1);
    if (last === undefined) break;
    const queue = [...page];
    await Promise.all(
      Array.from({ length: LANES }, async () => {
        for (let vm = queue.shift(); vm !== undefined; vm = queue.shift()) {
          view.step(`${totals.vms} VMs done, ${totals.removed} backups removed, ${totals.problemCount} problems`);
          await applyToOne(vm, totals);
        }
      }),
    );
    totals.after = last.uuid;
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof applyRetention>({ dryRun }, totals);
  }
  const { after: _, ...result } = totals;
  view.ended('done', `${result.vms} VMs, ${result.removed} backups removed, ${result.problemCount} problems`);
  return result;
}

/** Adds what becomes of one VM to the totals. */
async function applyToOne(vm: { uuid: string; name: string }, totals: Carried): Promise<void> {
  try {
    const { keptCount, removed, freedBytes } = (await executeChild(applyRetention, {
      workflowId: `${workflowInfo().workflowId}-${vm.name}-${vm.uuid.slice(0, 8)}`,
      args: [{ vm: vm.uuid, dryRun: totals.dryRun }],
    })) as VmRetention;
    totals.kept += keptCount;
    totals.removed += removed.length;
    totals.freedBytes += freedBytes;
  } catch (error) {
    if (isCancellation(error)) throw error;
    totals.problemCount += 1;
    if (totals.problems.length < PROBLEMS_SHOWN) {
      totals.problems.push({ vm: vm.name, type: failureTypeOf(error), message: causeOf(error) });
    }
  }
  totals.vms += 1;
}
