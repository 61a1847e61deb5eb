import { CancellationScope, condition } from '@temporalio/workflow';
import type { BegunScheduleRun, DueVm } from '../schemas/schedule.ts';
import { controlActivities } from './activity-proxies.ts';

/** A history stays well below Temporal's limits with so many children, at some eight events each. */
const VMS_PER_HISTORY = 1000;
const PAGE = 100;
/** How long a history that is full waits for the VMs that are still at work, before it goes on without them. */
const DRAIN = '10 minutes';

/**
 * Has `work` done for all VMs of a run, so many at a time. `work` notes its own failures and throws only when the run is
 * cancelled. Gives the position after which a new history must go on, or null when all have had their turn.
 */
export async function fanOut(
  run: BegunScheduleRun,
  options: { after: number; vmsPerHistory: number | undefined },
  work: (vm: DueVm) => Promise<void>,
): Promise<number | null> {
  const control = controlActivities();
  const running = new Set<Promise<void>>();
  const limit = options.vmsPerHistory ?? VMS_PER_HISTORY;
  const endsAtMs = run.windowEndsAt === null ? Infinity : Date.parse(run.windowEndsAt);
  let after = options.after;
  let taken = 0;
  try {
    while (taken < limit) {
      const page = await control.dueVms(run.runId, after, Math.min(PAGE, limit - taken));
      for (const vm of page) {
        await hasRoom(running, run.schedule.parallel, endsAtMs);
        if (Date.now() >= endsAtMs) {
          await control.missDueVms(run.runId, run.tooLate);
          await Promise.all(running);
          return null;
        }
        const task: Promise<void> = work(vm).finally(() => running.delete(task));
        running.add(task);
        after = vm.position;
        taken += 1;
      }
      if (page.length === 0) {
        await Promise.all(running);
        return null;
      }
    }
    await condition(() => running.size === 0, DRAIN); // those left go on by themselves, and are looked after later
    return after;
  } catch (error) {
    await CancellationScope.nonCancellable(() => Promise.allSettled(running));
    throw error;
  }
}

async function hasRoom(running: Set<unknown>, parallel: number, untilMs: number): Promise<void> {
  const free = () => running.size < parallel;
  if (free()) return;
  if (untilMs === Infinity) await condition(free);
  else if (Date.now() < untilMs) await condition(free, untilMs - Date.now());
}
