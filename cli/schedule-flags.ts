import { InvalidArgumentError, Option, type Command } from 'commander';
import { z } from 'zod';
import { parseSpan } from '../operations/duration.ts';
import {
  schedule as scheduleSchema,
  weekday,
  type Schedule,
  type ScheduleTask,
  type ScheduleTiming,
  type Weekday,
} from '../schemas/schedule.ts';
import { validationStep, type ValidationStep } from '../schemas/states.ts';
import { parseBytesPerSecond } from './bandwidth-rules.ts';
import { parsePercent } from './commands/check.ts';
import { parseCount, parseName, parseVm } from './commands/dev.ts';

/** What `schedule create` and `schedule update` take. */
export interface ScheduleFlags {
  offering?: string;
  vm?: string[];
  at?: string[];
  on?: Weekday[];
  dayOfMonth?: number;
  every?: number;
  cron?: string;
  timezone?: string;
  isolated?: boolean;
  full?: boolean;
  window?: number | 'none';
  jitter?: number;
  catchUp?: number;
  overlap?: Schedule['overlap'];
  parallel?: number;
  note?: string;
  rehearsal?: boolean;
  proveWithin?: number;
  budget?: number | 'none';
  maxVms?: number;
  steps?: ValidationStep[];
  check?: string;
  verifyWithin?: number;
  sample?: number;
  rate?: number | 'none';
  report?: boolean;
  since?: number;
  promise?: number;
  webhook?: boolean;
  mail?: string[];
}

const DEFAULT_CATCH_UP_SECONDS = 2 * 3600;
const DEFAULT_PARALLEL = 50;
/** Few, because one that waits for a slot has begun as far as the budget is concerned. */
const REHEARSALS_AT_ONCE = 4;
const DEFAULT_PROVE_WITHIN_SECONDS = 30 * 86_400;
const DEFAULT_VERIFY_WITHIN_SECONDS = 30 * 86_400;
const DEFAULT_SINCE_SECONDS = 86_400;
const SHORTEST_CATCH_UP_SECONDS = 10; // what Temporal takes at least

/** Flags that one kind of schedule alone knows. */
const FLAGS_OF = {
  backup: ['full', 'isolated', 'window', 'overlap'],
  rehearsal: ['proveWithin', 'budget', 'maxVms', 'steps'],
  check: ['verifyWithin', 'sample', 'rate'],
  report: ['since', 'promise', 'webhook', 'mail'],
} as const satisfies Record<ScheduleTask['kind'], (keyof ScheduleFlags)[]>;

export function addScheduleFlags(command: Command): Command {
  return command
    .addOption(
      new Option('--offering <name>', 'the VMs that have this offering when a run begins').argParser(parseName),
    )
    .addOption(new Option('--vm <vm>', 'this VM, by name or UUID; may be repeated').argParser(collected(parseVm)))
    .addOption(
      new Option('--at <HH:MM>', 'every day at this local time; may be repeated').argParser(collected(parseTime)),
    )
    .option('--on <days>', 'with --at: only on these days of the week, like mon,thu', parseDays)
    .option('--day-of-month <n>', 'with --at: only on this day of the month', parseDayOfMonth)
    .option('--every <span>', 'so often, like 6h', parseDuration)
    .option('--cron <expression>', 'five fields, as cron knows them')
    .option('--timezone <name>', "zone of --at and --cron, like Europe/Berlin (default: this machine's)", parseTimezone)
    .option('--full', 'each backup in full, inside the chain')
    .option('--isolated', 'each backup in full, outside any chain')
    .option('--window <span>', 'no backup begins later than this after the run; `none` = no such limit', parseWindow)
    .option('--jitter <span>', 'put each run off by a random time up to this', parseDuration)
    .option(
      '--catch-up <span>',
      'make up for a run that could not begin in time until then (default 2h)',
      parseDuration,
    )
    .addOption(
      new Option(
        '--overlap <rule>',
        'a VM whose former scheduled backup still runs is skipped, or backed up once more after it (default skip)',
      ).choices(['skip', 'buffer-one']),
    )
    .option('--parallel <n>', 'VMs at work or waiting for a slot at once (default 50)', parseCount)
    .option('--note <text>', 'shown by `schedule ls`')
    .option(
      '--prove-within <span>',
      'rehearsal: a VM is due when it was not proved for so long (default 30d)',
      parseDuration,
    )
    .option(
      '--budget <span>',
      'rehearsal: none begins later than this after the run; `none` = no such limit',
      parseWindow,
    )
    .option('--max-vms <n>', 'rehearsal: at most so many VMs a run', parseCount)
    .option('--steps <steps>', 'rehearsal: some of hash,boot,screenshot,command (default: all)', parseSteps)
    .option(
      '--verify-within <span>',
      'check: every file is compared with its hashes within so long (default 30d)',
      parseDuration,
    )
    .option('--sample <percent>', 'check: at most so many of all files a run, like 10%', parsePercent)
    .option(
      '--rate <bytes>',
      'check: read at most so many bytes per second, like 50M; `none` = as fast as it goes',
      parseRate,
    )
    .option('--since <span>', 'report: of how long (default 24h)', parseDuration)
    .option('--promise <span>', 'report: how old the newest good backup of a VM may be', parseDuration)
    .option('--webhook', 'report: to the configured webhook')
    .option(
      '--mail <address...>',
      'report: to these addresses, by the configured SMTP server',
      collected(parseAddress),
    );
}

/** What is to be done. @throws ZodError naming the flag */
export function taskOf(flags: ScheduleFlags): ScheduleTask {
  const { offering = null, vm: vms = [], full = false, isolated = false } = flags;
  const kinds = [
    ...(flags.rehearsal === true ? ['--rehearsal'] : []),
    ...(flags.check === undefined ? [] : ['--check']),
    ...(flags.report === true ? ['--report'] : []),
  ];
  if (kinds.length > 1) throw wrong(kinds.join(' and '), 'give one of them');
  if (offering !== null && vms.length > 0) throw wrong('--offering and --vm', 'give one of them');
  if (flags.check !== undefined) {
    if (offering !== null || vms.length > 0) throw wrong('--check', 'is of all VMs: leave --offering and --vm away');
    return {
      kind: 'check',
      repository: flags.check,
      verifyWithinSeconds: flags.verifyWithin ?? DEFAULT_VERIFY_WITHIN_SECONDS,
      samplePercent: flags.sample ?? null,
      rateBytesPerSecond: limitOf(flags.rate),
    };
  }
  if (flags.report === true) {
    if (offering !== null || vms.length > 0) throw wrong('--report', 'is of all VMs: leave --offering and --vm away');
    if (flags.webhook !== true && flags.mail === undefined) {
      throw wrong('--report', 'say where it goes: --webhook, --mail ADDRESS, or both');
    }
    return {
      kind: 'report',
      sinceSeconds: flags.since ?? DEFAULT_SINCE_SECONDS,
      promiseSeconds: flags.promise ?? null,
      webhook: flags.webhook ?? false,
      mailTo: flags.mail ?? [],
    };
  }
  if (flags.rehearsal === true) {
    return {
      kind: 'rehearsal',
      offering,
      vms,
      everySeconds: flags.proveWithin ?? DEFAULT_PROVE_WITHIN_SECONDS,
      budgetSeconds: limitOf(flags.budget),
      maxVms: flags.maxVms ?? null,
      steps: flags.steps ?? [...validationStep.options],
    };
  }
  if (offering === null && vms.length === 0) {
    throw wrong('--offering or --vm', 'one of them must say which VMs are backed up');
  }
  return { kind: 'backup', offering, vms, full, isolated };
}

/** The task with what the flags change of it. */
export function changedTask(former: ScheduleTask, flags: ScheduleFlags): ScheduleTask {
  if (former.kind === 'report') {
    return {
      ...former,
      sinceSeconds: flags.since ?? former.sinceSeconds,
      promiseSeconds: flags.promise ?? former.promiseSeconds,
      webhook: flags.webhook ?? former.webhook,
      mailTo: flags.mail ?? former.mailTo,
    };
  }
  if (former.kind === 'check') {
    return {
      ...former,
      verifyWithinSeconds: flags.verifyWithin ?? former.verifyWithinSeconds,
      samplePercent: flags.sample ?? former.samplePercent,
      rateBytesPerSecond: flags.rate === undefined ? former.rateBytesPerSecond : limitOf(flags.rate),
    };
  }
  const { offering, vm: vms } = flags;
  if (offering !== undefined && vms !== undefined) throw wrong('--offering and --vm', 'give one of them');
  const subjects = offering !== undefined ? { offering, vms: [] } : vms !== undefined ? { offering: null, vms } : {};
  if (former.kind === 'backup') {
    return { ...former, ...subjects, full: flags.full ?? former.full, isolated: flags.isolated ?? former.isolated };
  }
  return {
    ...former,
    ...subjects,
    everySeconds: flags.proveWithin ?? former.everySeconds,
    budgetSeconds: flags.budget === undefined ? former.budgetSeconds : limitOf(flags.budget),
    maxVms: flags.maxVms ?? former.maxVms,
    steps: flags.steps ?? former.steps,
  };
}

/** A new schedule from its flags. @throws ZodError naming the flag */
export function scheduleOf(name: string, task: ScheduleTask, flags: ScheduleFlags): Schedule {
  const timing = timingOf(flags);
  if (timing === undefined) throw wrong('--at, --every or --cron', 'one of them must say when it runs');
  return checked(
    {
      name,
      task,
      timing,
      timezone: flags.timezone ?? localZone(),
      windowSeconds: limitOf(flags.window),
      jitterSeconds: flags.jitter ?? 0,
      catchUpSeconds: flags.catchUp ?? DEFAULT_CATCH_UP_SECONDS,
      overlap: flags.overlap ?? 'skip',
      parallel: flags.parallel ?? (task.kind === 'rehearsal' ? REHEARSALS_AT_ONCE : DEFAULT_PARALLEL),
      longestGapSeconds: null,
      note: flags.note ?? null,
    },
    flags,
  );
}

/** The schedule with what the flags change of it. */
export function changedSchedule(schedule: Schedule, task: ScheduleTask, flags: ScheduleFlags): Schedule {
  return checked(
    {
      ...schedule,
      task,
      timing: timingOf(flags) ?? schedule.timing,
      timezone: flags.timezone ?? schedule.timezone,
      windowSeconds: flags.window === undefined ? schedule.windowSeconds : limitOf(flags.window),
      jitterSeconds: flags.jitter ?? schedule.jitterSeconds,
      catchUpSeconds: flags.catchUp ?? schedule.catchUpSeconds,
      overlap: flags.overlap ?? schedule.overlap,
      parallel: flags.parallel ?? schedule.parallel,
      note: flags.note ?? schedule.note,
    },
    flags,
  );
}

function checked(schedule: Schedule, flags: ScheduleFlags): Schedule {
  const { timing, task } = schedule;
  for (const [kind, names] of Object.entries(FLAGS_OF)) {
    const stray = names.find((name) => flags[name] !== undefined);
    if (stray === undefined || kind === task.kind) continue;
    const flag = stray.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
    throw wrong(`--${flag}`, `has no meaning for a schedule of kind ${task.kind}`);
  }
  if (timing.kind === 'every' && flags.timezone !== undefined) {
    throw wrong('--timezone', 'has no meaning with --every, which counts hours, not clocks');
  }
  if (schedule.catchUpSeconds < SHORTEST_CATCH_UP_SECONDS) throw wrong('--catch-up', 'give at least 10s');
  if (timing.kind === 'every' && schedule.jitterSeconds > timing.everySeconds) {
    throw wrong('--jitter', 'is longer than the time between two runs');
  }
  if (task.kind === 'backup' && task.full && task.isolated) {
    throw wrong('--full', 'an isolated backup is full anyway; give one of --full and --isolated');
  }
  const parsed = scheduleSchema.safeParse(schedule);
  if (parsed.success) return parsed.data;
  throw wrong(parsed.error.issues[0]?.path.join('.') ?? 'schedule', parsed.error.issues[0]?.message ?? '');
}

function timingOf({ at, on, dayOfMonth, every, cron }: ScheduleFlags): ScheduleTiming | undefined {
  const given = [at && '--at', every && '--every', cron && '--cron'].filter((flag) => flag !== undefined);
  if (given.length > 1) throw wrong(given.join(' and '), 'give one of them');
  if (at === undefined && on !== undefined) throw wrong('--on', 'goes with --at');
  if (at === undefined && dayOfMonth !== undefined) throw wrong('--day-of-month', 'goes with --at');
  if (on !== undefined && dayOfMonth !== undefined) throw wrong('--on and --day-of-month', 'give one of them');
  if (at !== undefined)
    return { kind: 'at', times: [...new Set(at)].toSorted(), on: on ?? [], dayOfMonth: dayOfMonth ?? null };
  if (every !== undefined) return { kind: 'every', everySeconds: every };
  if (cron === undefined) return undefined;
  if (/^(CRON_)?TZ=/.test(cron)) throw wrong('--cron', 'give the zone with --timezone');
  if (cron.trim().split(/\s+/).length !== 5) {
    throw wrong(
      '--cron',
      `${JSON.stringify(cron)} has not five fields: minute, hour, day of month, month, day of week`,
    );
  }
  return { kind: 'cron', expression: cron.trim() };
}

/** The zone of this machine; UTC where it has none that Temporal knows. */
function localZone(): string {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return isZone(zone) ? zone : 'UTC';
}

/** Wrong usage, told like any other value that a schema refuses. */
export const wrong = (flag: string, message: string): z.ZodError =>
  new z.ZodError([{ code: 'custom', path: [flag], message, input: undefined }]);

export function parseDuration(value: string): number {
  const seconds = parseSpan(value);
  if (seconds === undefined || seconds === 0) {
    throw new InvalidArgumentError('give a time like 30s, 10m, 6h, 1h30m, 7d or 2w');
  }
  return seconds;
}

// Not null, which commander takes for no value at all.
const parseWindow = (value: string): number | 'none' => (value === 'none' ? value : parseDuration(value));
const parseRate = (value: string): number | 'none' =>
  value === 'none' ? value : (parseBytesPerSecond(value) ?? 'none');
const limitOf = (flag: number | 'none' | undefined): number | null =>
  flag === 'none' || flag === undefined ? null : flag;

export const collected =
  <T>(parse: (value: string) => T) =>
  (value: string, former: T[] | undefined): T[] => [...(former ?? []), parse(value)];

function parseTime(value: string): string {
  const match = /^(\d{1,2}):(\d{2})$/.exec(value);
  if (match === null || Number(match[1]) > 23 || Number(match[2]) > 59) {
    throw new InvalidArgumentError('give a time of day like 02:30');
  }
  return value.padStart(5, '0');
}

function parseDays(value: string): Weekday[] {
  return value.split(',').map((day) => {
    const parsed = weekday.safeParse(day.trim().toLowerCase().slice(0, 3));
    if (!parsed.success)
      throw new InvalidArgumentError(`${day} is no day of the week; give some of ${weekday.options.join(',')}`);
    return parsed.data;
  });
}

function parseDayOfMonth(value: string): number {
  const day = Number(value);
  if (!Number.isInteger(day) || day < 1 || day > 31) throw new InvalidArgumentError('give a day from 1 to 31');
  return day;
}

function parseTimezone(value: string): string {
  if (!isZone(value)) throw new InvalidArgumentError(`${value} is no time zone; give a name like Europe/Berlin or UTC`);
  return value;
}

function parseSteps(value: string): ValidationStep[] {
  return value.split(',').map((step) => {
    const parsed = validationStep.safeParse(step.trim());
    if (!parsed.success) throw new InvalidArgumentError(`give some of ${validationStep.options.join(',')}`);
    return parsed.data;
  });
}

export function parseAddress(value: string): string {
  if (/^[^\s@<>,;"\u0000-\u001f]+@[^\s@<>,;"\u0000-\u001f]+$/.test(value)) return value;
  throw new InvalidArgumentError('give an address like ops@example.org');
}

/** Names only: offsets like +02:00 are no zones to Temporal. */
function isZone(name: string): boolean {
  if (!/^[A-Za-z]/.test(name)) return false;
  try {
    new Intl.DateTimeFormat('en-US', { timeZone: name });
    return true;
  } catch {
    return false;
  }
}
