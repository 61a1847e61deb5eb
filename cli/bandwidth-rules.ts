import { InvalidArgumentError } from 'commander';
import { bandwidthRule, type Bandwidth, type BandwidthRule } from '../schemas/bandwidth.ts';
import { weekday, type Weekday } from '../schemas/schedule.ts';
import { sizeText } from './output.ts';

const UNITS: Record<string, number> = { '': 1, K: 1024, M: 1024 ** 2, G: 1024 ** 3 };
const DAYS = weekday.options;

/** `50M` = 50 MiB per second; `none` = null. */
export const parseBytesPerSecond = (value: string): number | null =>
  parseBytes(value, 'bytes per second like 50M, or none');

/** `50M` = 50 MiB; `none` = null. @param wanted says what would be right */
export function parseBytes(value: string, wanted = 'bytes like 10G, or none'): number | null {
  if (value === 'none') return null;
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?$/i.exec(value) ?? [];
  const bytes = Math.round(Number(number) * (UNITS[unit.toUpperCase()] ?? NaN));
  if (number === '' || bytes < 1 || !Number.isSafeInteger(bytes)) throw new InvalidArgumentError(`give ${wanted}`);
  return bytes;
}

/** `mon-fri 08:00-18:00=10M`: days, hours of the zone, rate. */
export function parseBandwidthRule(value: string): BandwidthRule {
  const [, days = '', from = '', to = '', rate = ''] =
    /^([a-z,-]+) (\d\d:\d\d)-(\d\d:\d\d)=(\S+)$/.exec(value.trim().toLowerCase()) ?? [];
  if (rate === '') throw new InvalidArgumentError('give days, hours and rate like "mon-fri 08:00-18:00=10M"');
  const wrong = [from, to].find((time) => !bandwidthRule.shape.from.safeParse(time).success);
  if (wrong !== undefined) throw new InvalidArgumentError(`${wrong} is no time of day; the day ends at 00:00`);
  return { on: days.split(',').flatMap(parseDays), from, to, rate: parseBytesPerSecond(rate) };
}

/** `mon` or `fri-mon`. */
function parseDays(range: string): Weekday[] {
  const [first = -1, last = first, ...rest] = range.split('-').map((day) => DAYS.indexOf(day as Weekday));
  if (first < 0 || last < 0 || rest.length > 0) {
    throw new InvalidArgumentError(`${range} is no day of the week; give some of ${DAYS.join(',')}, or mon-fri`);
  }
  const count = ((last - first + DAYS.length) % DAYS.length) + 1;
  return Array.from({ length: count }, (_, i) => DAYS[(first + i) % DAYS.length] as Weekday);
}

export const bandwidthText = (limit: Bandwidth | undefined): string =>
  limit === undefined
    ? 'no limit'
    : [
        `${rateText(limit.rate)}${limit.rules.length === 0 ? '' : `, but (${limit.timezone}):`}`,
        ...limit.rules.map(({ on, from, to, rate }) => `  ${on.join(',')} ${from}-${to}: ${rateText(rate)}`),
      ].join('\n');

const rateText = (rate: number | null): string => (rate === null ? 'as fast as it goes' : `${sizeText(rate)}/s`);
