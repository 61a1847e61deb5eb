import { InvalidArgumentError, type Command } from 'commander';
import { retentionRules, timezone, type RetentionRules } from '../schemas/retention.ts';

/** Flags that make retention rules, of an offering or to try them out. */
export interface RuleFlags {
  keepLast?: number;
  keepHourly?: number;
  keepDaily?: number;
  keepWeekly?: number;
  keepMonthly?: number;
  keepYearly?: number;
  keepMinAge?: number;
  keepTimezone?: string;
}

export const addRuleOptions = (command: Command): Command =>
  command
    .option('--keep-last <n>', 'retention: keep the newest N backups', parseNatural)
    .option('--keep-hourly <n>', 'the newest of each of the last N hours that have one', parseNatural)
    .option('--keep-daily <n>', '… days', parseNatural)
    .option('--keep-weekly <n>', '… weeks', parseNatural)
    .option('--keep-monthly <n>', '… months', parseNatural)
    .option('--keep-yearly <n>', '… years', parseNatural)
    .option('--keep-min-age <time>', 'nothing younger goes, like 12h or 7d', parseAge)
    .option('--keep-timezone <name>', 'where days, weeks and months begin (default UTC)', parseTimezone);

/** Each rule as the flags give it; undefined = not spoken of. */
export const ruleFieldsOf = (flags: RuleFlags) =>
  ({
    last: flags.keepLast,
    hourly: flags.keepHourly,
    daily: flags.keepDaily,
    weekly: flags.keepWeekly,
    monthly: flags.keepMonthly,
    yearly: flags.keepYearly,
    minimumAgeSeconds: flags.keepMinAge,
    timezone: flags.keepTimezone,
  }) satisfies Record<keyof RetentionRules, unknown>;

/** The rules that the flags give; undefined when none is given. */
export function rulesOf(flags: RuleFlags): RetentionRules | undefined {
  const fields = ruleFieldsOf(flags);
  return Object.values(fields).every((value) => value === undefined) ? undefined : retentionRules.parse(fields);
}

/** `keeps 7 daily, 4 weekly; nothing younger than 3600 s goes; days of Europe/Berlin` */
export function rulesText({ timezone: zone, minimumAgeSeconds, ...counts }: RetentionRules): string {
  const kept = Object.entries(counts).flatMap(([rule, count]) => (count > 0 ? [`${count} ${rule}`] : []));
  return [
    ...(kept.length === 0 ? [] : [`keeps ${kept.join(', ')}`]),
    ...(minimumAgeSeconds > 0 ? [`nothing younger than ${minimumAgeSeconds} s goes`] : []),
    ...(zone === 'UTC' ? [] : [`days of ${zone}`]),
  ].join('; ');
}

function parseNatural(value: string): number {
  const count = Number(value);
  if (/^\d+$/.test(value) && Number.isSafeInteger(count)) return count;
  throw new InvalidArgumentError('give a whole number from 0 on');
}

const UNIT_SECONDS: Record<string, number> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** `3600`, `90m`, `12h`, `7d`: seconds. */
export function parseAge(value: string): number {
  const [, count, unit = 's'] = /^(\d{1,10})([smhd])?$/.exec(value) ?? [];
  if (count === undefined) throw new InvalidArgumentError('give seconds, or a time like 90m, 12h, 7d');
  return Number(count) * (UNIT_SECONDS[unit] ?? 1);
}

function parseTimezone(value: string): string {
  if (timezone.safeParse(value).success) return value;
  throw new InvalidArgumentError('give the IANA name of a time zone, like Europe/Berlin');
}
