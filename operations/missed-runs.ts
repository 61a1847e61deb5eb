import type { Catalog, ScheduleRecord } from '../catalog/contract.ts';
import type { ScheduleRun } from '../schemas/schedule.ts';
import { spanText } from './duration.ts';

/** What Temporal knows of our schedules' times. */
export interface ScheduleClock {
  /** Undefined when Temporal has no such schedule. */
  look(name: string): Promise<ScheduleState | undefined>;
  /** When runs should have been, jitter included: after `from`, up to `to`; the first thousand. */
  matching(name: string, from: string, to: string): Promise<string[]>;
  /** The scheduled times, without jitter, of the runs that Temporal started since. */
  started(name: string, since: string): Promise<string[]>;
}

export interface ScheduleState {
  paused: boolean;
  note: string | null;
  /** When it runs next, jitter included. */
  next: string[];
}

/** A run that is due is started within this time, if it is started at all. */
const PAUSED_GRACE_MS = 10_000;
const GRACE_MS = 60_000;
/** A schedule of seconds that was paused for weeks is told in so many lines. */
const MOST_AT_ONCE = 200;

/**
 * Compares the runs that should have been with those that were, and notes what was missed or skipped, with its reason.
 * Gives the runs that were news.
 */
export async function noteMissedRuns(
  catalog: Catalog,
  clock: ScheduleClock,
  { schedule, checkedUntil }: ScheduleRecord,
  now = new Date(),
): Promise<ScheduleRun[]> {
  const { name } = schedule;
  const state = await clock.look(name);
  if (state === undefined) return [];
  const expected = await clock.matching(name, checkedUntil, now.toISOString());
  if (expected.length === 0) return [];
  const since = new Date(Date.parse(checkedUntil) - schedule.jitterSeconds * 1000 - 1000).toISOString();
  const runs = await catalog.schedules.runs({ schedule: name, since });
  const started = await clock.started(name, since);
  const decided = decideMissed({
    expected,
    covered: [...started, ...runs.map(({ scheduledAt }) => scheduledAt)],
    runs: await catalog.schedules.runs({ schedule: name, states: ['running', 'done', 'failed'], limit: 50 }),
    jitterSeconds: schedule.jitterSeconds,
    catchUpSeconds: schedule.catchUpSeconds,
    runsOverlap: schedule.task.kind === 'backup',
    paused: state.paused ? (state.note ?? '') : null,
    now,
  });
  const news: ScheduleRun[] = [];
  for (const { at, ...missed } of decided.missed) {
    const run: ScheduleRun = {
      id: `${name}/${at}`,
      schedule: name,
      kind: schedule.task.kind,
      scheduledAt: at,
      startedAt: null,
      endedAt: null,
      workflowId: null,
      ...missed,
    };
    if (await catalog.schedules.noteMissed(run)) news.push(run);
  }
  await catalog.schedules.setCheckedUntil(name, decided.checkedUntil);
  return news;
}

export interface MissedRun {
  at: string;
  state: 'missed' | 'skipped';
  reason: string;
}

/** Which of the expected runs will not be, and why. What may yet begin is left for the next time. */
export function decideMissed(facts: {
  expected: string[];
  /** Scheduled times of runs there were, without jitter. */
  covered: string[];
  runs: Pick<ScheduleRun, 'startedAt' | 'endedAt'>[];
  jitterSeconds: number;
  catchUpSeconds: number;
  /** Runs go on beside each other, so none is skipped as a whole. */
  runsOverlap: boolean;
  /** The note, when it is paused. */
  paused: string | null;
  now: Date;
}): { missed: MissedRun[]; checkedUntil: string } {
  const nowMs = facts.now.getTime();
  const covered = facts.covered.map((time) => Date.parse(time));
  const missed: MissedRun[] = [];
  let undecided: number | undefined;
  for (const at of facts.expected.toSorted()) {
    const time = Date.parse(at);
    const age = nowMs - time;
    if (covered.some((start) => start <= time && time - start < facts.jitterSeconds * 1000 + 1000)) continue;
    const during = facts.runsOverlap
      ? undefined
      : facts.runs.find(({ startedAt, endedAt }) => {
          const start = startedAt === null ? Infinity : Date.parse(startedAt);
          return start <= time && time <= (endedAt === null ? nowMs : Date.parse(endedAt));
        });
    if (facts.paused !== null && age >= PAUSED_GRACE_MS) {
      missed.push({ at, state: 'missed', reason: `paused${facts.paused === '' ? '' : `: ${facts.paused}`}` });
    } else if (during !== undefined && age >= GRACE_MS) {
      missed.push({ at, state: 'skipped', reason: `the run of ${during.startedAt ?? ''} still went on` });
    } else if (age > facts.catchUpSeconds * 1000 + GRACE_MS) {
      const window = spanText(facts.catchUpSeconds);
      missed.push({ at, state: 'missed', reason: `Temporal could not start it within its catch-up time of ${window}` });
    } else {
      undecided ??= time;
    }
  }
  const last = facts.expected.length >= 1000 ? Date.parse(facts.expected.toSorted().at(-1) ?? '') : nowMs;
  return {
    missed: atMost(missed),
    checkedUntil: new Date(undecided === undefined ? last : undecided - 1).toISOString(),
  };
}

function atMost(missed: MissedRun[]): MissedRun[] {
  const [first, ...others] = missed.slice(-MOST_AT_ONCE);
  const before = missed.length - MOST_AT_ONCE;
  if (first === undefined || before <= 0) return missed;
  return [{ ...first, reason: `${first.reason} (as were ${before} runs before)` }, ...others];
}
