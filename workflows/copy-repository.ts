import { ContinueAsNew, continueAsNew, executeChild, isCancellation, workflowInfo } from '@temporalio/workflow';
import type { CopyCursor } from '../activities/control/copies.ts';
import type { CopiedVm } from '../schemas/copy.ts';
import { copyRepositoryRequest, type CopyRepositoryRequest } from '../schemas/requests.ts';
import { controlActivities } from './activity-proxies.ts';
import { copyInOrder } from './copy-in-order.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';

export interface CopiedRepository {
  repository: string;
  dryRun: boolean;
  /** VMs that had something to copy. */
  vms: number;
  copied: number;
  writtenBytes: number;
  /** At most a hundred; `problemCount` tells of all. */
  problems: { vm: string; id: string | null; type: string; message: string }[];
  problemCount: number;
}

/** A run over many VMs so far, carried from one history to the next. */
type Carried = CopiedRepository & { after: CopyCursor | null };

/** How many VMs are worked on at once, and asked for at a time. */
const LANES = 4;
const PAGE = 25;
const PROBLEMS_SHOWN = 100;

/**
 * Copies all backups that have no copy in a repository there, of one VM or of all. Of all: a run for each VM, so many at once;
 * what fails of one is noted, the others go on.
 */
export async function copyRepository(
  request: CopyRepositoryRequest,
  carried?: Carried | CopiedVm,
): Promise<CopiedRepository | CopiedVm> {
  const asked = parseRequest(copyRepositoryRequest, 'copyRepository', request);
  const view = new OperationView('copyRepository', asked.vm ?? '');
  view.about({ repository: asked.to });
  try {
    if (asked.vm === undefined) return await copyFleet(asked, carried as Carried | undefined, view);
    return await copyVm(asked, asked.vm, carried as CopiedVm | undefined, view);
  } catch (error) {
    if (!(error instanceof ContinueAsNew)) view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

async function copyVm(
  asked: CopyRepositoryRequest,
  vm: string,
  carried: CopiedVm | undefined,
  view: OperationView,
): Promise<CopiedVm> {
  const { to, from, dryRun = false, decrypt = false, timeLimitSeconds = null } = asked;
  const done = await copyInOrder(
    { to, from, what: { vm }, decrypt },
    { dryRun, timeLimitSeconds },
    view,
    carried,
    (so) => continueAsNew<typeof copyRepository>(asked, so),
  );
  const told = `${done.copied.length} copied, ${done.problems.length} problems`;
  view.ended(done.problems.length > 0 ? 'failed' : 'done', dryRun ? 'a dry run: nothing was copied' : told);
  return done;
}

async function copyFleet(
  asked: CopyRepositoryRequest,
  carried: Carried | undefined,
  view: OperationView,
): Promise<CopiedRepository> {
  const { to, from = null, dryRun = false, decrypt = false } = asked;
  const totals: Carried = carried ?? {
    repository: to,
    dryRun,
    vms: 0,
    copied: 0,
    writtenBytes: 0,
    problems: [],
    problemCount: 0,
    after: null,
  };
  for (;;) {
    const page = await controlActivities().vmsToCopy({ to, from, decrypt }, totals.after, PAGE);
    if (page.after === null) break;
    const queue = [...page.vms];
    await Promise.all(
      Array.from({ length: LANES }, async () => {
        for (let vm = queue.shift(); vm !== undefined; vm = queue.shift()) {
          view.step(`${totals.vms} VMs done, ${totals.copied} backups copied, ${totals.problemCount} problems`);
          await copyOne(asked, vm, totals);
        }
      }),
    );
    totals.after = page.after;
    if (workflowInfo().continueAsNewSuggested) await continueAsNew<typeof copyRepository>(asked, totals);
  }
  const { after: _, ...result } = totals;
  const told = `${result.vms} VMs, ${result.copied} backups copied, ${result.problemCount} problems`;
  view.ended(result.problemCount > 0 ? 'failed' : 'done', dryRun ? `a dry run: ${told}` : told);
  return result;
}

/** Adds what becomes of one VM to the totals. */
async function copyOne(
  asked: CopyRepositoryRequest,
  vm: { uuid: string; name: string },
  totals: Carried,
): Promise<void> {
  const note = (problem: CopiedRepository['problems'][number]): void => {
    totals.problemCount += 1;
    if (totals.problems.length < PROBLEMS_SHOWN) totals.problems.push(problem);
  };
  try {
    const { copied, writtenBytes, problems } = (await executeChild(copyRepository, {
      workflowId: `${workflowInfo().workflowId}-${vm.name}-${vm.uuid.slice(0, 8)}`,
      args: [{ ...asked, vm: vm.uuid }],
    })) as CopiedVm;
    totals.copied += copied.length;
    totals.writtenBytes += writtenBytes;
    for (const problem of problems) note({ vm: vm.name, ...problem });
  } catch (error) {
    if (isCancellation(error)) throw error;
    note({ vm: vm.name, id: null, type: failureTypeOf(error), message: causeOf(error) });
  }
  totals.vms += 1;
}
