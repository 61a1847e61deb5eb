import type { VmRecord } from '../../schemas/catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import type {
  BegunScheduleRun,
  DueVm,
  OutcomeState,
  Schedule,
  ScheduleOutcome,
  ScheduleRunSummary,
  ScheduleTask,
} from '../../schemas/schedule.ts';
import { chooseRehearsals, type TestedBackup } from '../../operations/choose-rehearsals.ts';
import { spanText } from '../../operations/duration.ts';
import type { ControlDependencies } from './dependencies.ts';

/** What became of VMs is told for so long. */
const KEPT_DAYS = 400;

type Work = Pick<ScheduleOutcome, 'vm' | 'state' | 'reason' | 'backupId'>;

export const createScheduleRuns = ({ catalog }: ControlDependencies) => {
  /** The VMs of an offering, as assigned now, and those that are named; each once. */
  async function vmsOf(offering: string | null, named: string[]): Promise<Work[]> {
    const all: Work[] = [];
    if (offering !== null) {
      const vms = (await catalog.vms.list()).filter((vm) => vm.offering === offering);
      if ((await catalog.offerings.find(offering)) === undefined) {
        const reason = `offering ${offering} is not known any more`;
        const lost = vms.map(({ uuid, name }) => ({ uuid, name }));
        for (const vm of lost.length > 0 ? lost : [{ uuid: null, name: `offering ${offering}` }]) {
          all.push({ vm, state: 'failed', reason, backupId: null });
        }
      } else all.push(...vms.map((vm) => work([vm], vm.name)));
    }
    for (const name of named) all.push(work(await catalog.vms.findByNameOrUuid(name), name));
    const seen = new Set<string>();
    return all.filter(({ vm }) => {
      const key = vm.uuid ?? vm.name;
      return !seen.has(key) && seen.add(key);
    });
  }

  /** Where no VM is to boot, a validation that passed is the proof. */
  async function testedBy({ steps }: { steps: string[] }): Promise<TestedBackup[]> {
    const backups = await catalog.proofs.backups();
    if (steps.includes('boot')) return backups;
    return backups.map((backup) => {
      const { validatedAt, isValid } = backup;
      return { ...backup, testedAt: validatedAt, provedAt: isValid ? validatedAt : null };
    });
  }

  /** VMs that are due to be proved, and from what; more than `maxVms` wait for the next run. */
  async function rehearsalsOf(task: Extract<ScheduleTask, { kind: 'rehearsal' }>, seed: string): Promise<Work[]> {
    const all =
      task.offering === null && task.vms.length === 0
        ? (await catalog.vms.list()).filter(({ offering }) => offering !== null).map((vm) => work([vm], vm.name))
        : await vmsOf(task.offering, task.vms);
    const known = all.flatMap(({ vm: { uuid, name }, state }) =>
      uuid === null || state !== 'pending' ? [] : [{ uuid, name }],
    );
    const { everySeconds } = task;
    const due = chooseRehearsals(known, await testedBy(task), { everySeconds, now: new Date(), seed });
    const nothing = 'it has no good backup to be proved from';
    const provable = due.filter(({ backupId }) => backupId !== null);
    return [
      ...all.filter(({ state }) => state !== 'pending'),
      ...due.flatMap(({ vm, backupId }): Work[] =>
        backupId === null ? [{ vm, state: 'failed', reason: nothing, backupId }] : [],
      ),
      ...provable
        .slice(0, task.maxVms ?? provable.length)
        .map(({ vm, backupId }): Work => ({ vm, state: 'pending', reason: null, backupId })),
    ];
  }

  async function workOf(task: ScheduleTask, runId: string): Promise<Work[]> {
    if (task.kind === 'backup') return await vmsOf(task.offering, task.vms);
    return task.kind === 'rehearsal' ? await rehearsalsOf(task, runId) : [];
  }

  return {
    /**
     * Notes that a run begins, with the VMs that are its work as assigned now. Repeatable: the same run finds its work.
     * @throws ScheduleNotFound
     */
    async beginScheduleRun(name: string, runId: string, workflowId: string, at: string): Promise<BegunScheduleRun> {
      const record = await catalog.schedules.find(name);
      if (record === undefined) {
        throw new HoldfastError('ScheduleNotFound', `schedule ${name} is not known; see: holdfast schedule ls`);
      }
      const { schedule } = record;
      const { task } = schedule;
      const scheduledAt = new Date(at).toISOString();
      const startedAt = new Date().toISOString();
      await catalog.schedules.beginRun(
        {
          id: runId,
          schedule: name,
          kind: task.kind,
          scheduledAt,
          startedAt,
          endedAt: null,
          workflowId,
          state: 'running',
          reason: null,
        },
        await workOf(task, runId),
      );
      const { pending = 0 } = await catalog.schedules.countOutcomes(runId);
      const run = await catalog.schedules.findRun(runId);
      const noted = run?.scheduledAt ?? scheduledAt; // of the first of its histories
      return {
        runId,
        schedule,
        scheduledAt: noted,
        ...limitOf(schedule, noted, run?.startedAt ?? startedAt),
        vms: pending,
      };
    },

    /** The VMs whose turn comes next, after that position. */
    async dueVms(runId: string, after: number, limit: number): Promise<DueVm[]> {
      const due = await catalog.schedules.outcomes(runId, { states: ['pending'], after, limit });
      return due.map(({ position, vm, backupId }) => ({ position, uuid: vm.uuid ?? '', name: vm.name, backupId }));
    },

    async vmStarted(runId: string, position: number, run: { workflowId: string; runId: string }): Promise<void> {
      await catalog.schedules.setOutcome(runId, position, {
        state: 'running',
        workflowId: run.workflowId,
        workflowRunId: run.runId,
        startedAt: new Date().toISOString(),
      });
    },

    async vmEnded(
      runId: string,
      position: number,
      outcome: { state: OutcomeState; reason: string | null; backupId: string | null },
    ): Promise<void> {
      await catalog.schedules.setOutcome(runId, position, { ...outcome, endedAt: new Date().toISOString() });
    },

    /** The turn of the VMs that still wait will not come in this run. */
    async missDueVms(runId: string, reason: string): Promise<void> {
      await catalog.schedules.settlePending(runId, 'missed', reason, new Date().toISOString());
    },

    /** The run is over; `cause` tells why before its time, if so. */
    async endScheduleRun(runId: string, cause: string | null): Promise<ScheduleRunSummary> {
      const now = new Date();
      await catalog.schedules.settlePending(
        runId,
        'missed',
        cause ?? 'the run ended before its turn',
        now.toISOString(),
      );
      const counts = await catalog.schedules.countOutcomes(runId);
      const { done = 0, failed = 0, skipped = 0, missed = 0 } = counts;
      const told = Object.entries({ done, failed, skipped, missed }).flatMap(([state, count]) =>
        count === 0 ? [] : [`${count} ${state}`],
      );
      const allDone = failed + skipped + missed === 0;
      await catalog.schedules.endRun(
        runId,
        cause !== null || failed > 0 ? 'failed' : 'done',
        [...(cause === null ? [] : [cause]), ...(allDone ? [] : [told.join(', ')])].join('; ') || null,
        now.toISOString(),
      );
      await catalog.schedules.prune(new Date(now.getTime() - KEPT_DAYS * 86_400_000).toISOString());
      const run = await catalog.schedules.findRun(runId);
      return {
        schedule: run?.schedule ?? '',
        runId,
        scheduledAt: run?.scheduledAt ?? '',
        done,
        failed,
        skipped,
        missed,
      };
    },
  };
};

/** What cannot be backed up is part of the run too, with its reason, and stops nobody else. */
const work = (found: VmRecord[], asked: string): Work => {
  const [vm, ...others] = found;
  if (vm !== undefined && others.length === 0) {
    return { vm: { uuid: vm.uuid, name: vm.name }, state: 'pending', reason: null, backupId: null };
  }
  const reason =
    vm === undefined
      ? `VM ${asked} is not known; see: holdfast vm ls`
      : `several VMs are called ${asked}: name one by its UUID`;
  return { vm: { uuid: null, name: asked }, state: 'failed', reason, backupId: null };
};

/** Until when turns come, and what is noted of those that come later. */
function limitOf(
  { name, task, windowSeconds }: Schedule,
  scheduledAt: string,
  startedAt: string,
): Pick<BegunScheduleRun, 'windowEndsAt' | 'tooLate'> {
  const after = (time: string, seconds: number): string => new Date(Date.parse(time) + seconds * 1000).toISOString();
  if (task.kind === 'rehearsal' && task.budgetSeconds !== null) {
    const tooLate = `the budget of ${spanText(task.budgetSeconds)} was used up before its turn; it comes first next time`;
    return { windowEndsAt: after(startedAt, task.budgetSeconds), tooLate };
  }
  if (windowSeconds === null) return { windowEndsAt: null, tooLate: '' };
  const windowEndsAt = after(scheduledAt, windowSeconds);
  return { windowEndsAt, tooLate: `the window of schedule ${name} ended at ${windowEndsAt} before its turn came` };
}
