import { z } from 'zod';
import { plainName, vmName } from './names.ts';
import { validationStep } from './states.ts';

export const weekday = z.enum(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun']);
export type Weekday = z.infer<typeof weekday>;

/** When a schedule runs. Temporal holds it and starts the runs; this is how it was asked for. */
export const scheduleTiming = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('at'),
    /** Local times, `HH:MM`. */
    times: z.array(z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/)).min(1),
    /** Empty = every day. */
    on: z.array(weekday),
    dayOfMonth: z.int().min(1).max(31).nullable(),
  }),
  /** Counted from 1970 in UTC, so without regard to time zones. */
  z.object({ kind: z.literal('every'), everySeconds: z.int().positive() }),
  z.object({ kind: z.literal('cron'), expression: z.string().min(1).max(200) }),
]);
export type ScheduleTiming = z.infer<typeof scheduleTiming>;

const vms = {
  /** All VMs that have it when the run begins. */
  offering: plainName.nullable().default(null),
  /** Names or UUIDs. */
  vms: z.array(vmName).default([]),
};

/** What a schedule does. */
export const scheduleTask = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('backup'), ...vms, full: z.boolean(), isolated: z.boolean() }),
  z.object({
    kind: z.literal('rehearsal'),
    ...vms,
    /** A VM is due when it was not proved for so long. */
    everySeconds: z.int().positive(),
    /** No validation begins later than this after the run's beginning. */
    budgetSeconds: z.int().positive().nullable(),
    maxVms: z.int().positive().nullable(),
    steps: z.array(validationStep).min(1),
  }),
  z.object({
    kind: z.literal('check'),
    repository: plainName,
    /** Every file of the repository is compared with its hashes within so long. */
    verifyWithinSeconds: z.int().positive(),
    /** Only so many of all files in one run; null = all that are due. */
    samplePercent: z.number().positive().max(100).nullable(),
    rateBytesPerSecond: z.int().positive().nullable(),
  }),
  z.object({
    kind: z.literal('report'),
    sinceSeconds: z.int().positive(),
    promiseSeconds: z.int().positive().nullable(),
    webhook: z.boolean(),
    mailTo: z.array(z.string()),
  }),
]);
export type ScheduleTask = z.infer<typeof scheduleTask>;

/** What happens to a VM whose former scheduled backup still runs. */
export const scheduleOverlap = z.enum(['skip', 'buffer-one']);

/** A schedule: what it does, for whom, and when. One Temporal schedule each. */
export const schedule = z.object({
  name: plainName,
  task: scheduleTask,
  timing: scheduleTiming,
  /** IANA name. */
  timezone: z.string(),
  /** No new backup begins later than this after the run's time; null = whenever its turn comes. */
  windowSeconds: z.int().positive().nullable(),
  /** Each run is put off by a random time up to this. */
  jitterSeconds: z.int().nonnegative(),
  /** A run that could not begin in time is made up for until then. */
  catchUpSeconds: z.int().positive(),
  overlap: scheduleOverlap,
  /** VMs at work at the same time. */
  parallel: z.int().positive().max(500),
  /** The longest time between two runs: what is promised to a VM follows from it. Null until it is known. */
  longestGapSeconds: z.int().positive().nullable(),
  note: z.string().nullable(),
});
export type Schedule = z.infer<typeof schedule>;

export const SCHEDULE_WORKFLOWS = {
  backup: 'runSchedule',
  rehearsal: 'rehearse',
  check: 'scheduledCheck',
  report: 'sendReport',
} as const satisfies Record<ScheduleTask['kind'], string>;

/** Id of the Temporal schedule of one of ours. */
export const scheduleId = (name: string): string => `schedule-${name}`;

/** How a run fared as a whole: `missed` and `skipped` ones never began. */
export const scheduleRunState = z.enum(['running', 'done', 'failed', 'skipped', 'missed']);
export type ScheduleRunState = z.infer<typeof scheduleRunState>;

/** How one VM fared in a run. */
export const outcomeState = z.enum(['pending', 'running', 'done', 'failed', 'skipped', 'missed']);
export type OutcomeState = z.infer<typeof outcomeState>;

/** One run of a schedule that began, or should have. */
export interface ScheduleRun {
  id: string;
  schedule: string;
  kind: ScheduleTask['kind'];
  /** The time it was scheduled for, without jitter; ISO 8601. */
  scheduledAt: string;
  startedAt: string | null;
  endedAt: string | null;
  workflowId: string | null;
  state: ScheduleRunState;
  reason: string | null;
}

/** What became of one VM in one run. */
export interface ScheduleOutcome {
  runId: string;
  schedule: string;
  kind: ScheduleTask['kind'];
  scheduledAt: string;
  position: number;
  /** The UUID is null for a VM that is not known (any more). */
  vm: { uuid: string | null; name: string };
  state: OutcomeState;
  reason: string | null;
  backupId: string | null;
  /** The run of the VM's own operation. */
  workflowId: string | null;
  workflowRunId: string | null;
  startedAt: string | null;
  endedAt: string | null;
}

/** What `runSchedule`, `rehearse`, `scheduledCheck` and `sendReport` take; `{"schedule": "nightly"}` is enough. */
export const runScheduleRequest = z.strictObject({
  schedule: plainName,
  /** A run goes on as a new one, with a new history, after so many VMs. */
  vmsPerHistory: z.int().positive().optional(),
  /** Given by a run to the one that goes on with it. */
  goesOn: z.strictObject({ after: z.int() }).optional(),
});
export type RunScheduleRequest = z.infer<typeof runScheduleRequest>;

/** What a run of a schedule is to do, as noted in the catalog when it begins. */
export const begunScheduleRun = z.object({
  runId: z.string(),
  schedule,
  scheduledAt: z.iso.datetime(),
  /** No VM's work begins after it. */
  windowEndsAt: z.iso.datetime().nullable(),
  /** What is noted of those whose turn comes after it. */
  tooLate: z.string(),
  vms: z.int().nonnegative(),
});
export type BegunScheduleRun = z.infer<typeof begunScheduleRun>;

/** A VM whose turn comes. */
export interface DueVm {
  position: number;
  uuid: string;
  name: string;
  /** The backup a rehearsal validates. */
  backupId: string | null;
}

export const scheduleRunSummary = z.object({
  schedule: z.string(),
  runId: z.string(),
  scheduledAt: z.string(),
  done: z.int(),
  failed: z.int(),
  skipped: z.int(),
  missed: z.int(),
});
export type ScheduleRunSummary = z.infer<typeof scheduleRunSummary>;
