import type { Report } from '../schemas/report.ts';
import { spanText } from './duration.ts';

const MOST_LINES = 50;

/** One line: what a person looks at first. */
export function reportSubject({ ok, counts, since, until }: Report): string {
  const span = spanText(Math.max(1, Math.round((Date.parse(until) - Date.parse(since)) / 1000)));
  if (ok) return `Holdfast: all well, ${count(counts.backups, 'backup')} in ${span}`;
  const wrong = [
    counts.failures > 0 ? count(counts.failures, 'failure') : '',
    counts.notRun > 0 ? `${counts.notRun} not run` : '',
    counts.late > 0 ? `${count(counts.late, 'VM')} without a good backup in time` : '',
  ].filter((part) => part !== '');
  return `Holdfast: ${wrong.join(', ')} in ${span}`;
}

/** The whole report for people; what needs one comes first. */
export function reportText(report: Report): string {
  const { since, until, counts, sizes } = report;
  return [
    reportSubject(report),
    `from ${since} to ${until}: ${count(counts.backups, 'backup')}, ${count(counts.restores, 'restore')}, ${count(counts.validations, 'validation')}`,
    ...section(
      'Failures',
      report.failures,
      ({ at, what, vm, cause }) => `${at}  ${what}${vm === null ? '' : ` of VM ${vm.name}`}: ${cause}`,
    ),
    ...section(
      'Skipped and missed',
      report.notRun,
      ({ scheduledAt, schedule, vm, state, reason }) =>
        `${scheduledAt}  ${state}: schedule ${schedule}${vm === null ? '' : `, VM ${vm.name}`}: ${reason}`,
    ),
    ...section(
      'VMs without a good backup within their promise',
      report.late,
      ({ vm, lastGoodAt, promiseSeconds, lastSeenAt }) =>
        `${vm.name}: ${lastGoodAt === null ? 'no good backup' : `the newest is of ${lastGoodAt}`}${promiseSeconds === null ? '' : `, promised every ${spanText(promiseSeconds)}`}${lastSeenAt === null ? '' : `, last seen ${lastSeenAt}`}`,
    ),
    ...section(
      'VMs that did not boot from a backup in time',
      report.unproved,
      ({ vm, lastProvedAt, withinSeconds }) =>
        `${vm.name}: ${lastProvedAt === null ? 'never' : `last ${lastProvedAt}`}${withinSeconds === null ? '' : `, promised every ${spanText(withinSeconds)}`}`,
    ),
    ...section('VMs with an offering and no schedule', report.unscheduled, ({ name }) => name),
    ...section('VMs that nothing protects', report.unprotected, ({ name }) => name),
    ...section(
      'Validations',
      report.validations,
      ({ at, vm, state, reason }) => `${at}  VM ${vm.name}: ${state}: ${reason}`,
    ),
    ...section(
      'Checks of stored bytes',
      report.checks,
      ({ at, repository, files, bytes, damagedFiles }) =>
        `${at}  ${repository}: ${count(files, 'file')}, ${size(bytes)}, ${damagedFiles === 0 ? 'none' : damagedFiles} damaged`,
    ),
    ...section('Restores', report.restores, ({ at, message }) => `${at}  ${message}`),
    ...section(
      'Backups',
      report.backups,
      ({ at, vm, type, storedBytes, requestedBy }) =>
        `${at}  ${vm.name}  ${type}  ${size(storedBytes)}${requestedBy === null ? '' : `  (${requestedBy})`}`,
    ),
    '',
    `Stored: ${size(sizes.storedBytes)}, of it ${size(sizes.addedBytes)} new`,
    ...sizes.repositories.map(
      ({ name, backups, storedBytes, unverifiedSince }) =>
        `  ${name}: ${count(backups, 'backup')}, ${size(storedBytes)}${unverifiedSince === null ? '' : `, every file compared with its hashes since ${unverifiedSince}`}`,
    ),
  ].join('\n');
}

function section<T>(title: string, items: T[], line: (item: T) => string): string[] {
  if (items.length === 0) return [];
  const more = items.length - MOST_LINES;
  return [
    '',
    `${title} (${items.length})`,
    ...items.slice(0, MOST_LINES).map((item) => `  ${line(item)}`),
    ...(more > 0 ? [`  and ${more} more`] : []),
  ];
}

const count = (number: number, what: string): string => `${number} ${what}${number === 1 ? '' : 's'}`;

function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const unit = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** unit;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`;
}
