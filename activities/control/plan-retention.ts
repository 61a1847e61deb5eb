import type { BackupRecord } from '../../catalog/contract.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { RetentionRules } from '../../schemas/retention.ts';
import { busyWith } from './plan-delete.ts';
import { bucketsIn, PERIODS } from './retention-buckets.ts';

/** What retention looks at of a backup. */
export type JudgedBackup = Pick<BackupRecord, 'pinned' | 'damage'> & {
  backup: Pick<Backup, 'id' | 'state' | 'instant' | 'validation' | 'compression'>;
};

export interface RetentionVerdict {
  id: string;
  instant: string;
  /** What wants it to live, for people; empty = it goes. */
  keptBy: string[];
}

/**
 * Decides which backups of one VM in one repository live on, newest first. One lives while anything wants it: a rule, its
 * pin, its age, or that it is the newest good one or the current one, which the next is built on.
 *
 * - Rules count good backups only: a damaged or `NotValid` one never takes a good one's place, and goes when a newer good
 *   one is there; where none is good nothing goes.
 * - Backups that did not come about (`Failed`, or `Error` before their instant) are no restore points: they neither count
 *   nor go. An `Error` with an instant is a delete that stopped: it goes.
 * - Hidden backups (`Removed`) do not count. They go with the last that needs them, or when nothing does.
 * - Where no rule counts and there is no minimum age, nothing goes.
 * @param neededHidden hidden backups that living ones are built on
 */
export function planRetention(
  backups: readonly JudgedBackup[],
  rules: RetentionRules,
  options: { now: Date; currentId?: string | undefined; neededHidden?: ReadonlySet<string> },
): RetentionVerdict[] {
  const points = backups
    .flatMap((judged) => {
      const { id, instant, state } = judged.backup;
      if (instant === null || state === 'Expunged' || state === 'Failed') return [];
      if (state === 'Removed' && (options.neededHidden?.has(id) ?? true)) return [];
      return [{ ...judged, id, instant, timeMs: Date.parse(instant), keptBy: [] as string[] }];
    })
    .toSorted((a, b) => b.timeMs - a.timeMs || (a.id < b.id ? 1 : -1));
  const good = points.filter(isGood);
  const [newestGood] = good;
  const counts = PERIODS.some((period) => rules[period] > 0) || rules.last > 0;

  for (const point of good.slice(0, rules.last)) point.keptBy.push('last');
  const bucketsOf = bucketsIn(rules.timezone);
  const buckets = good.map((point) => bucketsOf(point.instant));
  for (const period of PERIODS) {
    const taken = new Set<string>();
    for (const [index, point] of good.entries()) {
      if (taken.size >= rules[period]) break;
      const bucket = buckets[index]?.[period] ?? '';
      if (taken.has(bucket)) continue;
      taken.add(bucket);
      point.keptBy.push(`${period} ${bucket}`);
    }
  }
  for (const point of points) {
    const { state } = point.backup;
    if (state === 'Removed' || state === 'Error') continue; // somebody wanted it gone, and that did not come to its end
    if (point.pinned) point.keptBy.push('pinned');
    if (point === newestGood) point.keptBy.push('newest good one');
    if (point.id === options.currentId) point.keptBy.push('the next is built on it');
    const ageMs = options.now.getTime() - point.timeMs;
    if (rules.minimumAgeSeconds > 0 && ageMs < rules.minimumAgeSeconds * 1000) point.keptBy.push('minimum age');
    if (!isGood(point) && (newestGood === undefined || point.timeMs > newestGood.timeMs)) {
      point.keptBy.push('no newer good one');
    }
    if (!counts && rules.minimumAgeSeconds === 0) point.keptBy.push('no rule');
    const busy = busyWith(point.backup);
    if (busy !== undefined) point.keptBy.push(busy);
  }
  return points.map(({ id, instant, keptBy }) => ({ id, instant, keptBy }));
}

/** Whole, as far as is known: while it is being restored it is as good as before. */
const isGood = ({ backup, damage }: JudgedBackup): boolean =>
  (backup.state === 'BackedUp' || backup.state === 'Restoring') && damage === null && backup.validation !== 'NotValid';
