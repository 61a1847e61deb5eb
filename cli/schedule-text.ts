import { spanText } from '../operations/duration.ts';
import type { ShownSchedule } from '../operations/schedules.ts';
import type { Schedule, ScheduleOutcome, ScheduleRun } from '../schemas/schedule.ts';
import { shortId, table } from './output.ts';

/** `every day at 02:30 Europe/Berlin`. */
export function timingText({ timing, timezone }: Schedule): string {
  if (timing.kind === 'every') return `every ${spanText(timing.everySeconds)}`;
  if (timing.kind === 'cron') return `cron ${timing.expression} ${timezone}`;
  const days =
    timing.dayOfMonth !== null
      ? `on day ${timing.dayOfMonth} of each month`
      : timing.on.length === 0
        ? 'every day'
        : `on ${timing.on.join(', ')}`;
  return `${days} at ${timing.times.join(', ')} ${timezone}`;
}

/** `backups of the VMs of offering gold`. */
export function taskText({ task }: Schedule): string {
  if (task.kind === 'report') return `report of the last ${spanText(task.sinceSeconds)}`;
  if (task.kind === 'check') {
    const sample = task.samplePercent === null ? '' : `, at most ${task.samplePercent} % of its files a run`;
    return `check of repository ${task.repository}, every file within ${spanText(task.verifyWithinSeconds)}${sample}`;
  }
  const subject =
    task.offering === null
      ? task.vms.length === 0
        ? 'all VMs with an offering'
        : `VM ${task.vms.join(', ')}`
      : `the VMs of offering ${task.offering}`;
  if (task.kind === 'rehearsal') return `validation of ${subject} every ${spanText(task.everySeconds)}`;
  const kind = task.isolated ? 'isolated full backups' : task.full ? 'full backups' : 'backups';
  return `${kind} of ${subject}`;
}

/** `2026-11-22 02:30:00 Europe/Berlin (01:30:00 UTC)`. */
export function timeText(time: string, timezone: string): string {
  const local = new Date(time).toLocaleString('sv-SE', { timeZone: timezone });
  const utc =
    time.slice(0, 10) === local.slice(0, 10) ? time.slice(11, 19) : `${time.slice(0, 10)} ${time.slice(11, 19)}`;
  return timezone === 'UTC' ? `${local} UTC` : `${local} ${timezone} (${utc} UTC)`;
}

/** All that there is to know of a schedule when it is made or changed. */
export function madeText(shown: ShownSchedule, daylightSaving: string[]): string {
  return [
    `schedule ${shown.name}: ${taskText(shown)}, ${timingText(shown)}`,
    ...nextText(shown),
    ...rulesText(shown, daylightSaving),
  ].join('\n');
}

const nextText = (shown: ShownSchedule): string[] => [
  `next runs${shown.jitterSeconds === 0 ? '' : `, put off by up to ${spanText(shown.jitterSeconds)}`}${shown.state === 'paused' ? ', were it not paused' : ''}:`,
  ...(shown.next.length === 0 ? ['  none'] : shown.next.map((time) => `  ${timeText(time, shown.timezone)}`)),
];

function rulesText(shown: ShownSchedule, daylightSaving: string[]): string[] {
  const { timing, catchUpSeconds, windowSeconds, overlap, task } = shown;
  const rareDay = timing.kind === 'at' && timing.dayOfMonth !== null && timing.dayOfMonth > 28;
  return [
    ...daylightSaving.map((line) => `daylight saving: ${line}`),
    ...(rareDay ? [`months without a day ${timing.dayOfMonth ?? ''} have no run`] : []),
    `catch-up: a run that cannot begin in time, because Temporal is down, is made up for within ${spanText(catchUpSeconds)}; later it is recorded as missed`,
    task.kind !== 'backup'
      ? 'overlap: a run is skipped while the former one still goes on, and recorded as skipped'
      : overlap === 'skip'
        ? 'overlap: a VM whose former scheduled backup still runs is skipped, and recorded as skipped; the others are backed up'
        : 'overlap: a VM whose former scheduled backup still runs is backed up once more right after it; further runs skip it',
    ...(windowSeconds === null
      ? []
      : [
          `window: no VM's turn comes later than ${spanText(windowSeconds)} after a run's time; what had to wait longer is recorded as missed`,
        ]),
  ];
}

export function listText(schedules: ShownSchedule[]): string {
  if (schedules.length === 0) return 'no schedules; create one: holdfast schedule create --offering O --at 02:30';
  return schedules
    .map((shown) => [headText(shown), ...nextText(shown).map(indented), ...lastText(shown).map(indented)].join('\n'))
    .join('\n\n');
}

export function showText(shown: ShownSchedule, runs: ScheduleRun[]): string {
  return [
    headText(shown),
    ...nextText(shown),
    ...rulesText(shown, []),
    '',
    table(
      ['RUN OF', 'STATE', 'ENDED', 'WHY'],
      runs.map((run) => [run.scheduledAt, run.state, run.endedAt, run.reason]),
      'no run yet',
    ),
    '',
    vmTable(shown.vms),
  ].join('\n');
}

function headText(shown: ShownSchedule): string {
  const { name, state, pauseNote, note } = shown;
  const told =
    state === 'active'
      ? ''
      : state === 'paused'
        ? `  PAUSED${pauseNote === null ? '' : `: ${pauseNote}`}`
        : `  Temporal does not know it; put it back: holdfast schedule update ${name}`;
  return `${name}  ${taskText(shown)}, ${timingText(shown)}${note === null ? '' : `  (${note})`}${told}`;
}

function lastText({ lastRun, vms }: ShownSchedule): string[] {
  if (lastRun === null) return ['no run yet'];
  const why = lastRun.reason === null ? '' : `: ${lastRun.reason}`;
  return [
    `last run, of ${lastRun.scheduledAt}: ${lastRun.state}${why}`,
    ...(vms.length === 0 ? [] : vmTable(vms).split('\n')),
  ];
}

const vmTable = (vms: ScheduleOutcome[]): string =>
  table(
    ['VM', 'LAST', 'RUN OF', 'BACKUP', 'WHY'],
    vms.map(({ vm, state, scheduledAt, backupId, reason }) => [
      vm.name,
      state === 'done' ? 'ok' : state,
      scheduledAt,
      backupId === null ? null : shortId(backupId),
      reason,
    ]),
    'no VM yet',
  );

const indented = (line: string): string => `  ${line}`;
