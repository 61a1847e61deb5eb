import { z } from 'zod';
import { weekday, type Weekday } from './schedule.ts';

const timeOfDay = z.string().regex(/^([01]\d|2[0-3]):[0-5]\d$/, 'a time of day like 08:00');
/** null = as fast as it goes. */
const rate = z.int().min(1).nullable();

/** A rate for a part of the week. `to` at or before `from` means the next day; the days are those on which it begins. */
export const bandwidthRule = z.object({ on: z.array(weekday).min(1), from: timeOfDay, to: timeOfDay, rate });
export type BandwidthRule = z.infer<typeof bandwidthRule>;

export const isTimeZone = (name: string): boolean => {
  try {
    return new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone !== '';
  } catch (error) {
    if (error instanceof RangeError) return false;
    throw error;
  }
};

/**
 * How fast each host may write to a repository and read it in the background: bytes per second. It lies in the repository
 * itself, so that hosts see a change within seconds.
 */
export const bandwidth = z.object({
  version: z.literal(1),
  /** Where no rule holds. */
  rate,
  /** The first that holds counts. */
  rules: z.array(bandwidthRule).max(50),
  /** Of the rules' times, as in the IANA database. */
  timezone: z.string().refine(isTimeZone, 'no time zone'),
});
export type Bandwidth = z.infer<typeof bandwidth>;

const DAYS = weekday.options;
const MINUTES_OF_DAY = 24 * 60;

/** Bytes per second at a moment; null = no limit. Local times that come twice or not at all count as the clock shows them. */
export function rateAt({ rate: otherwise, rules, timezone }: Bandwidth, atMs: number): number | null {
  const { day, minute } = localTime(atMs, timezone);
  const holds = rules.find(({ on, from, to }) => {
    const [begin, end] = [minutesOf(from), minutesOf(to)];
    const length = end > begin ? end - begin : end - begin + MINUTES_OF_DAY;
    const since = (minute - begin + MINUTES_OF_DAY) % MINUTES_OF_DAY;
    if (since >= length) return false;
    const began = minute >= begin ? day : (day + DAYS.length - 1) % DAYS.length;
    return on.includes(DAYS[began] as Weekday);
  });
  return holds === undefined ? otherwise : holds.rate;
}

function minutesOf(time: string): number {
  const [hours = '', minutes = ''] = time.split(':');
  return Number(hours) * 60 + Number(minutes);
}

const formats = new Map<string, Intl.DateTimeFormat>();

/** `day`: 0 = Monday. */
function localTime(atMs: number, timezone: string): { day: number; minute: number } {
  let format = formats.get(timezone);
  if (format === undefined) {
    format = new Intl.DateTimeFormat('en-GB', {
      timeZone: timezone,
      weekday: 'short',
      hour: '2-digit',
      minute: '2-digit',
      hourCycle: 'h23',
    });
    formats.set(timezone, format);
  }
  const parts = new Map(format.formatToParts(atMs).map(({ type, value }) => [type, value]));
  const day = DAYS.indexOf((parts.get('weekday') ?? '').toLowerCase() as Weekday);
  return { day, minute: Number(parts.get('hour')) * 60 + Number(parts.get('minute')) };
}
