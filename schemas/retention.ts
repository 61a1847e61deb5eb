import { z } from 'zod';

const count = z.int().nonnegative().default(0);

export const timezone = z.string().refine(isTimezone, { message: 'must be an IANA time zone, like Europe/Berlin' });

function isTimezone(name: string): boolean {
  try {
    return new Intl.DateTimeFormat('en-US', { timeZone: name }).resolvedOptions().timeZone !== '';
  } catch {
    return false;
  }
}

/**
 * Which backups are kept; a backup lives while any rule wants it. The newest good one, pinned ones, and what living ones are
 * built on, stay whatever the rules say. Without any rule and minimum age all stay.
 */
export const retentionRules = z.object({
  /** The newest N. */
  last: count,
  /** The newest of each of the last N hours, days, weeks (ISO), months and years that have a backup. */
  hourly: count,
  daily: count,
  weekly: count,
  monthly: count,
  yearly: count,
  /** Nothing younger goes. */
  minimumAgeSeconds: z.int().nonnegative().default(0),
  /** IANA name; where days, weeks, months and years begin. */
  timezone: timezone.default('UTC'),
});
export type RetentionRules = z.infer<typeof retentionRules>;
