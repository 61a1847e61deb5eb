import {
  ScheduleAlreadyRunning,
  ScheduleNotFoundError,
  type Client,
  type ScheduleOptions,
  type ScheduleSpec,
} from '@temporalio/client';
import type { Catalog, ScheduleRecord } from '../catalog/contract.ts';
import { HoldfastError } from '../schemas/failures.ts';
import { CONTROL_QUEUE } from '../schemas/queues.ts';
import {
  SCHEDULE_WORKFLOWS,
  scheduleId,
  type Schedule,
  type ScheduleOutcome,
  type ScheduleRun,
  type Weekday,
} from '../schemas/schedule.ts';
import { scheduleClockOf } from '../workers/schedule-clock.ts';
import { runsOf } from '../workers/temporal.ts';
import { explainDaylightSaving } from './daylight-saving.ts';
import { noteMissedRuns, type ScheduleState } from './missed-runs.ts';
import { settleOutcomes } from './settle-outcomes.ts';

export interface Services {
  catalog: Catalog;
  client: Client;
}

/** A schedule as people and scripts see it. */
export interface ShownSchedule extends Schedule {
  createdAt: string;
  /** `absent`: Temporal does not know it (any more). */
  state: 'active' | 'paused' | 'absent';
  /** Why it is paused. */
  pauseNote: string | null;
  /** The next three, jitter included; ISO 8601. */
  next: string[];
  lastRun: ScheduleRun | null;
  /** The last that became of each VM. */
  vms: ScheduleOutcome[];
}

const WEEKDAYS = {
  mon: 'MONDAY',
  tue: 'TUESDAY',
  wed: 'WEDNESDAY',
  thu: 'THURSDAY',
  fri: 'FRIDAY',
  sat: 'SATURDAY',
  sun: 'SUNDAY',
} as const satisfies Record<Weekday, string>;

/** Days in which each way of telling times comes at least twice, also the 31st of the month. */
const GAP_DAYS = 130;

/**
 * Makes the schedule known to catalog and Temporal, and says what is to know of the next year's changes of the clock.
 * @throws HoldfastError InvalidRequest when there is one of that name, or Temporal refuses its times
 */
export async function createSchedule(
  services: Services,
  schedule: Schedule,
): Promise<{ schedule: ShownSchedule; daylightSaving: string[] }> {
  const { catalog } = services;
  if ((await catalog.schedules.find(schedule.name)) !== undefined) {
    throw new HoldfastError(
      'InvalidRequest',
      `name: a schedule ${schedule.name} is there already; see: schedule update`,
    );
  }
  await catalog.schedules.put(schedule); // first: its first run may come at once
  try {
    await putInTemporal(services, schedule);
  } catch (error) {
    await catalog.schedules.remove(schedule.name);
    throw error;
  }
  return await told(services, schedule);
}

/** Changes it, from its next run on. What was missed before is noted first, under the former times. */
export async function updateSchedule(
  services: Services,
  schedule: Schedule,
): Promise<{ schedule: ShownSchedule; daylightSaving: string[] }> {
  const record = await scheduleNamed(services.catalog, schedule.name);
  await checkSchedule(services, record);
  await putInTemporal(services, schedule);
  await services.catalog.schedules.put(schedule);
  await services.catalog.schedules.setCheckedUntil(schedule.name, new Date().toISOString());
  return await told(services, schedule);
}

export async function pauseSchedule(services: Services, name: string, note: string): Promise<ShownSchedule> {
  const record = await scheduleNamed(services.catalog, name);
  await checkSchedule(services, record);
  await inTemporal(name, () => services.client.schedule.getHandle(scheduleId(name)).pause(note));
  return await showSchedule(services, await scheduleNamed(services.catalog, name));
}

/** The runs that the pause kept from being are noted as missed. */
export async function resumeSchedule(services: Services, name: string): Promise<ShownSchedule> {
  await checkSchedule(services, await scheduleNamed(services.catalog, name));
  await inTemporal(name, () => services.client.schedule.getHandle(scheduleId(name)).unpause('resumed'));
  await services.catalog.schedules.setCheckedUntil(name, new Date().toISOString());
  return await showSchedule(services, await scheduleNamed(services.catalog, name));
}

/** Runs that go on are left alone; what became of former ones stays known. */
export async function deleteSchedule(services: Services, name: string): Promise<void> {
  await scheduleNamed(services.catalog, name);
  try {
    await services.client.schedule.getHandle(scheduleId(name)).delete();
  } catch (error) {
    if (!(error instanceof ScheduleNotFoundError)) throw error;
  }
  await services.catalog.schedules.remove(name);
}

/** What Temporal and catalog know of it; first notes what was missed since it was looked at last. */
export async function showSchedule(services: Services, record: ScheduleRecord): Promise<ShownSchedule> {
  const { catalog, client } = services;
  await checkSchedule(services, record);
  const { name } = record.schedule;
  const state = await scheduleClockOf(client).look(name);
  const [lastRun = null] = await catalog.schedules.runs({ schedule: name, limit: 1 });
  return {
    ...record.schedule,
    createdAt: record.createdAt,
    ...stateOf(state),
    lastRun,
    vms: await catalog.schedules.lastOutcomes(name),
  };
}

/** Notes what was missed, and what became of VMs whose run could not tell. */
export async function checkSchedule({ catalog, client }: Services, record: ScheduleRecord): Promise<void> {
  await settleOutcomes(catalog, runsOf(client));
  await noteMissedRuns(catalog, scheduleClockOf(client), record);
}

/** @throws HoldfastError ScheduleNotFound */
export async function scheduleNamed(catalog: Catalog, name: string): Promise<ScheduleRecord> {
  const record = await catalog.schedules.find(name);
  if (record !== undefined) return record;
  throw new HoldfastError('ScheduleNotFound', `schedule ${name} is not known; see: holdfast schedule ls`);
}

const stateOf = (state: ScheduleState | undefined): Pick<ShownSchedule, 'state' | 'pauseNote' | 'next'> => ({
  state: state === undefined ? 'absent' : state.paused ? 'paused' : 'active',
  pauseNote: state?.paused === true ? state.note : null,
  next: state?.next.slice(0, 3) ?? [],
});

/** What there is to tell once Temporal has the times: the next runs, the longest gap, the changes of the clock. */
async function told(
  services: Services,
  schedule: Schedule,
): Promise<{ schedule: ShownSchedule; daylightSaving: string[] }> {
  const { catalog, client } = services;
  const clock = scheduleClockOf(client);
  const { name, timing } = schedule;
  const now = new Date();
  let longestGapSeconds = timing.kind === 'every' ? timing.everySeconds : null;
  if (timing.kind !== 'every') {
    const until = new Date(now.getTime() + GAP_DAYS * 86_400_000);
    longestGapSeconds = longestGap(await clock.matching(name, now.toISOString(), until.toISOString()));
  }
  const record = await catalog.schedules.put({ ...schedule, longestGapSeconds });
  const { spec } = await client.schedule.getHandle(scheduleId(name)).describe();
  return {
    schedule: await showSchedule(services, record),
    daylightSaving: await explainDaylightSaving(
      spec.calendars ?? [],
      spec.timezone || 'UTC',
      now,
      (from, to) => clock.matching(name, from, to),
      schedule.jitterSeconds,
    ),
  };
}

/** Seconds of the longest time between two runs that follow each other; null for fewer than two. */
export function longestGap(times: string[]): number | null {
  const sorted = times.map((time) => Date.parse(time)).toSorted((a, b) => a - b);
  const gaps = sorted.slice(1).map((time, index) => time - (sorted[index] ?? time));
  return gaps.length === 0 ? null : Math.max(1, Math.round(Math.max(...gaps) / 1000));
}

export function specOf({ timing, timezone, jitterSeconds }: Schedule): ScheduleSpec {
  const jitter = jitterSeconds === 0 ? {} : { jitter: jitterSeconds * 1000 };
  switch (timing.kind) {
    case 'every':
      return { intervals: [{ every: timing.everySeconds * 1000 }], ...jitter };
    case 'cron':
      return { cronExpressions: [timing.expression], timezone, ...jitter };
    case 'at':
      return {
        calendars: timing.times.map((time) => ({
          hour: Number(time.slice(0, 2)),
          minute: Number(time.slice(3)),
          ...(timing.on.length === 0 ? {} : { dayOfWeek: timing.on.map((day) => WEEKDAYS[day]) }),
          ...(timing.dayOfMonth === null ? {} : { dayOfMonth: timing.dayOfMonth }),
        })),
        timezone,
        ...jitter,
      };
  }
}

async function putInTemporal({ client }: Services, schedule: Schedule): Promise<void> {
  const { name, task, catchUpSeconds } = schedule;
  const workflow = SCHEDULE_WORKFLOWS[task.kind];
  const options = {
    spec: specOf(schedule),
    policies: {
      // Backups: a slow VM must not keep the others from their next run; each VM is looked at by itself.
      overlap: task.kind === 'backup' ? 'ALLOW_ALL' : 'SKIP',
      catchupWindow: catchUpSeconds * 1000,
    },
    action: {
      type: 'startWorkflow',
      workflowType: workflow,
      workflowId: `${workflow}-${name}`,
      taskQueue: CONTROL_QUEUE,
      args: [{ schedule: name }],
    },
  } as const satisfies Partial<ScheduleOptions>;
  try {
    try {
      await client.schedule.create({ scheduleId: scheduleId(name), ...options });
    } catch (error) {
      if (!(error instanceof ScheduleAlreadyRunning)) throw error;
      await client.schedule.getHandle(scheduleId(name)).update(({ state }) => ({ ...options, state }));
    }
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    // What the server refuses comes as this; the flags' own checks leave it these two.
    const flag = error.message.includes('time zone') ? 'timezone' : schedule.timing.kind;
    throw new HoldfastError('InvalidRequest', `--${flag}: ${error.message}`, { cause: error });
  }
}

async function inTemporal<T>(name: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof ScheduleNotFoundError)) throw error;
    throw new HoldfastError(
      'ScheduleNotFound',
      `Temporal does not know schedule ${name} any more; put it back with: holdfast schedule update ${name}`,
      { cause: error },
    );
  }
}
