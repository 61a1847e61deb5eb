/** A moment at which the clocks of a zone are put forward (`gap`: local times that do not exist) or back (they come twice). */
export interface ClockChange {
  kind: 'gap' | 'overlap';
  /** ISO 8601. */
  at: string;
  /** Minutes east of UTC. */
  offsetBefore: number;
  offsetAfter: number;
}

/** Which local times a schedule names, as Temporal describes them; ranges with both ends, every `step`. */
export interface CalendarTimes {
  hour: Range[];
  minute: Range[];
  dayOfWeek: Range<string>[];
  dayOfMonth: Range[];
  month: Range<string>[];
}
interface Range<T = number> {
  start: T;
  end: T;
  step: number;
}
const WEEKDAYS = ['SUNDAY', 'MONDAY', 'TUESDAY', 'WEDNESDAY', 'THURSDAY', 'FRIDAY', 'SATURDAY'];
const MONTHS = 'JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER'.split(' ');

const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;

/** The zone's changes of the clock, soonest first. */
export function clockChanges(timezone: string, from: Date, days = 366): ClockChange[] {
  const changes: ClockChange[] = [];
  let before = from.getTime();
  for (let day = 1; day <= days; day += 1) {
    const after = from.getTime() + day * DAY_MS;
    const [offsetBefore, offsetAfter] = [offsetMinutes(timezone, before), offsetMinutes(timezone, after)];
    if (offsetBefore !== offsetAfter) {
      let [low, high] = [before, after];
      while (high - low > MINUTE_MS) {
        const middle = Math.floor((low + high) / 2 / MINUTE_MS) * MINUTE_MS;
        if (middle <= low) break;
        if (offsetMinutes(timezone, middle) === offsetBefore) low = middle;
        else high = middle;
      }
      const at = new Date(Math.floor(high / MINUTE_MS) * MINUTE_MS).toISOString();
      changes.push({ kind: offsetAfter > offsetBefore ? 'gap' : 'overlap', at, offsetBefore, offsetAfter });
    }
    before = after;
  }
  return changes;
}

/**
 * What the next changes of the clock mean for a schedule of local times, in sentences; none when they do not touch it.
 * `runsIn` gives the runs after a time and up to another, as Temporal will start them.
 */
export async function explainDaylightSaving(
  calendars: CalendarTimes[],
  timezone: string,
  from: Date,
  runsIn: (from: string, to: string) => Promise<string[]>,
  jitterSeconds = 0,
): Promise<string[]> {
  const lines: string[] = [];
  if (calendars.length === 0) return lines;
  for (const change of clockChanges(timezone, from)) {
    const touched = touchedTimes(calendars, change);
    if (touched.length === 0) continue;
    const atMs = Date.parse(change.at);
    const shift = Math.abs(change.offsetAfter - change.offsetBefore) * MINUTE_MS;
    const day = localDay(change);
    const clock = (offset: number): string => clockText(minuteOfDay(atMs, offset));
    const turned = `${day} ${timezone}: clocks go ${change.kind === 'gap' ? 'forward' : 'back'} from ${clock(change.offsetBefore)} to ${clock(change.offsetAfter)}`;
    if (change.kind === 'gap') {
      lines.push(`${turned}; ${list(touched)} ${touched.length === 1 ? 'does' : 'do'} not exist that day: no run`);
      continue;
    }
    const end = new Date(atMs + shift + jitterSeconds * 1000).toISOString();
    const runs = await runsIn(new Date(atMs - shift - MINUTE_MS).toISOString(), end);
    const found = runs.flatMap((run) => {
      const times = occurrences(touched, change).filter(({ ms }) => {
        const late = Date.parse(run) - ms;
        return late >= 0 && late < jitterSeconds * 1000 + 1000;
      });
      return times.length === 0 ? [] : [times];
    });
    if (found.length === 0) continue;
    const told = [...new Set(found.flat().map(({ time }) => time))].toSorted();
    const turns = new Set(found.flat().map(({ turn }) => turn));
    const [turn] = turns;
    // With much jitter a run may be either.
    const once = turns.size === 1 && turn !== undefined ? `once, ${turn}` : 'once';
    const twice = found.length > told.length && found.every((times) => times.length === 1);
    lines.push(
      `${turned}; ${list(told)} ${told.length === 1 ? 'comes' : 'come'} twice: runs ${twice ? 'twice' : once}`,
    );
  }
  return lines;
}

/** Local times, `HH:MM`, of the calendars that fall into what is left out or comes twice. */
function touchedTimes(calendars: CalendarTimes[], change: ClockChange): string[] {
  const { at, offsetBefore, offsetAfter } = change;
  const atMs = Date.parse(at);
  const day = new Date(localDay(change));
  const thatDay = calendars.filter(
    ({ dayOfWeek, dayOfMonth, month }) =>
      isIn(numbered(dayOfWeek, WEEKDAYS), day.getUTCDay()) &&
      isIn(dayOfMonth, day.getUTCDate()) &&
      isIn(numbered(month, MONTHS), day.getUTCMonth()),
  );
  const first = minuteOfDay(atMs, Math.min(offsetBefore, offsetAfter));
  const minutes = Math.abs(offsetAfter - offsetBefore);
  const times = new Set<string>();
  for (let ahead = 0; ahead < minutes; ahead += 1) {
    const minute = (first + ahead) % 1440;
    const named = thatDay.some(
      (calendar) => isIn(calendar.hour, Math.floor(minute / 60)) && isIn(calendar.minute, minute % 60),
    );
    if (named) times.add(clockText(minute));
  }
  return [...times];
}

const isIn = (ranges: Range[], value: number): boolean =>
  ranges.some(({ start, end, step }) => value >= start && value <= end && (value - start) % Math.max(step, 1) === 0);

/** Both times at which a local time comes on the day the clocks go back. */
const occurrences = (times: string[], { at, offsetBefore, offsetAfter }: ClockChange) =>
  times.flatMap((time) => {
    const first = minuteOfDay(Date.parse(at), offsetAfter);
    const minute = Number(time.slice(0, 2)) * 60 + Number(time.slice(3));
    const second = Date.parse(at) + ((minute - first + 1440) % 1440) * MINUTE_MS;
    const before = second - (offsetBefore - offsetAfter) * MINUTE_MS;
    return [
      { time, turn: 'the first time', ms: before },
      { time, turn: 'the second time', ms: second },
    ];
  });

const numbered = (ranges: Range<string>[], names: string[]): Range[] =>
  ranges.map(({ start, end, step }) => ({ start: names.indexOf(start), end: names.indexOf(end), step }));

/** Minutes east of UTC at that time. */
export function offsetMinutes(timezone: string, ms: number): number {
  const part = formatOf(timezone)
    .formatToParts(ms)
    .find(({ type }) => type === 'timeZoneName');
  const match = /^GMT(?:([+-])(\d{2}):(\d{2}))?/.exec(part?.value ?? '');
  if (match?.[1] === undefined) return 0;
  return (match[1] === '-' ? -1 : 1) * (Number(match[2]) * 60 + Number(match[3]));
}

const formats = new Map<string, Intl.DateTimeFormat>();
function formatOf(timezone: string): Intl.DateTimeFormat {
  const known =
    formats.get(timezone) ?? new Intl.DateTimeFormat('en-US', { timeZone: timezone, timeZoneName: 'longOffset' });
  formats.set(timezone, known);
  return known;
}

const minuteOfDay = (ms: number, offset: number): number =>
  (((Math.floor(ms / MINUTE_MS) + offset) % 1440) + 1440) % 1440;
/** The day whose times are left out, or come twice. */
const localDay = ({ at, offsetBefore, offsetAfter }: ClockChange): string =>
  new Date(Date.parse(at) + Math.min(offsetBefore, offsetAfter) * MINUTE_MS).toISOString().slice(0, 10);
const clockText = (minute: number): string =>
  `${String(Math.floor(minute / 60)).padStart(2, '0')}:${String(minute % 60).padStart(2, '0')}`;
const list = (times: string[]): string =>
  times.length <= 4 ? times.join(', ') : `${times[0] ?? ''} to ${times.at(-1) ?? ''} (${times.length} times)`;
