import type { RetentionRules } from '../../schemas/retention.ts';

/** The rules that keep one backup of each of the last N stretches of time. */
export const PERIODS = ['hourly', 'daily', 'weekly', 'monthly', 'yearly'] as const;
export type Period = (typeof PERIODS)[number];

/**
 * Names the hour, day, ISO week, month and year an instant lies in, by the clocks of a time zone. An hour carries its
 * offset from UTC: when clocks go back one hour comes twice, and that is two hours.
 */
export function bucketsIn(timezone: RetentionRules['timezone']): (instant: string) => Record<Period, string> {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: timezone,
    calendar: 'iso8601',
    hourCycle: 'h23',
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    timeZoneName: 'longOffset',
  });
  return (instant) => {
    const parts = Object.fromEntries(format.formatToParts(new Date(instant)).map(({ type, value }) => [type, value]));
    const { year = '', month = '', day = '', hour = '', timeZoneName = '' } = parts;
    const offset = timeZoneName === 'GMT' ? 'Z' : timeZoneName.replace('GMT', '');
    return {
      hourly: `${year}-${month}-${day}T${hour}${offset}`,
      daily: `${year}-${month}-${day}`,
      weekly: isoWeek(Number(year), Number(month), Number(day)),
      monthly: `${year}-${month}`,
      yearly: year,
    };
  };
}

const DAY_MS = 86_400_000;

/** ISO 8601: weeks begin on Monday and belong to the year that has their Thursday. */
function isoWeek(year: number, month: number, day: number): string {
  const date = Date.UTC(year, month - 1, day);
  const weekday = (new Date(date).getUTCDay() + 6) % 7; // Monday = 0
  const thursday = new Date(date + (3 - weekday) * DAY_MS);
  const yearOfWeek = thursday.getUTCFullYear();
  const week = Math.floor((thursday.getTime() - Date.UTC(yearOfWeek, 0, 1)) / (7 * DAY_MS)) + 1;
  return `${yearOfWeek}-W${String(week).padStart(2, '0')}`;
}
