import { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import {
  addScheduleFlags,
  changedSchedule,
  changedTask,
  scheduleOf,
  taskOf,
  type ScheduleFlags,
} from '../../cli/schedule-flags.ts';
import { describeError } from '../../cli/failure.ts';
import { longestGap, specOf } from '../../operations/schedules.ts';
import { parseSpan, spanText } from '../../operations/duration.ts';

const parse = (...args: string[]): ScheduleFlags => {
  const command = addScheduleFlags(
    new Command('create').option('--rehearsal').option('--report').option('--check <repository>'),
  );
  command.exitOverride().configureOutput({ writeErr: () => undefined });
  return command.parse(args, { from: 'user' }).opts<ScheduleFlags>();
};
const make = (...args: string[]) => {
  const flags = parse(...args);
  return scheduleOf('nightly', taskOf(flags), flags);
};

describe('the flags of a schedule', () => {
  it.each([
    ['--vm one --at 2:30', { calendars: [{ hour: 2, minute: 30 }], timezone: 'UTC' }],
    [
      '--vm one --at 22:00 --at 02:30 --on mon,Friday',
      {
        calendars: [
          { hour: 2, minute: 30, dayOfWeek: ['MONDAY', 'FRIDAY'] },
          { hour: 22, minute: 0, dayOfWeek: ['MONDAY', 'FRIDAY'] },
        ],
        timezone: 'UTC',
      },
    ],
    ['--vm one --at 04:00 --day-of-month 31', { calendars: [{ hour: 4, minute: 0, dayOfMonth: 31 }], timezone: 'UTC' }],
    ['--vm one --every 1h30m --jitter 10m', { intervals: [{ every: 5_400_000 }], jitter: 600_000 }],
  ])('say when it runs: %s', (line, spec) => {
    const timezone = line.includes('--every') ? [] : ['--timezone', 'UTC'];
    expect(specOf(make(...line.split(' '), ...timezone))).toEqual(spec);
  });

  it('have defaults', () => {
    expect(make('--offering', 'gold', '--every', '6h')).toMatchObject({
      task: { kind: 'backup', offering: 'gold', vms: [], full: false, isolated: false },
      windowSeconds: null,
      jitterSeconds: 0,
      catchUpSeconds: 7200,
      overlap: 'skip',
      parallel: 50,
    });
    expect(make('--rehearsal', '--every', '24h')).toMatchObject({
      task: { kind: 'rehearsal', offering: null, everySeconds: 2_592_000, budgetSeconds: null, maxVms: null },
      parallel: 4,
    });
    expect(make('--report', '--every', '24h', '--mail', 'a@example.org', 'b@example.org').task).toEqual({
      kind: 'report',
      sinceSeconds: 86_400,
      promiseSeconds: null,
      webhook: false,
      mailTo: ['a@example.org', 'b@example.org'],
    });
  });

  it.each([
    ['--vm one', '--at, --every or --cron'],
    ['--at 02:30', '--offering or --vm'],
    ['--vm one --offering gold --at 02:30', '--offering and --vm'],
    ['--vm one --at 25:00', '--at'],
    ['--vm one --at 02:30 --timezone +02:00', '--timezone'],
    ['--vm one --every 1h --timezone UTC', '--timezone'],
    ['--vm one --at 02:30 --every 1h', '--at and --every'],
    ['--vm one --every 5', '--every'],
    ['--vm one --every 0s', '--every'],
    ['--vm one --cron @daily', '--cron'],
    ['--vm one --cron CRON_TZ=UTC', '--cron'],
    ['--vm one --every 1h --on mon', '--on'],
    ['--vm one --at 02:30 --on never', '--on'],
    ['--vm one --every 1h --day-of-month 1', '--day-of-month'],
    ['--vm one --at 02:30 --day-of-month 32', '--day-of-month'],
    ['--vm one --every 1h --jitter 2h', '--jitter'],
    ['--vm one --every 1h --catch-up 1s', '--catch-up'],
    ['--vm one --every 1h --budget 4h', '--budget'],
    ['--vm one --every 1h --full --isolated', '--full'],
    ['--rehearsal --every 1h --overlap skip', '--overlap'],
    ['--rehearsal --every 1h --steps dance', '--steps'],
    ['--report --every 1h', '--report'],
    ['--report --every 1h --mail nobody', '--mail'],
    ['--report --every 1h --mail a@b,c@d', '--mail'],
    ['--report --every 1h --webhook --vm one', '--report'],
    ['--rehearsal --report --every 1h', '--rehearsal and --report'],
  ])('are refused as wrong usage, and named: %s', async (line, named) => {
    let error: unknown;
    try {
      make(...line.split(' '));
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeDefined();
    const { exitCode, message } = await describeError(error);
    expect(exitCode).toBe(2);
    expect(message).toContain(named);
  });

  it('change what they name and nothing else', () => {
    const former = make(
      '--offering',
      'gold',
      '--at',
      '02:30',
      '--timezone',
      'Europe/Berlin',
      '--window',
      '4h',
      '--full',
    );
    const flags = parse('--vm', 'one', '--window', 'none', '--note', 'why');
    const changed = changedSchedule(former, changedTask(former.task, flags), flags);
    expect(changed).toEqual({
      ...former,
      task: { kind: 'backup', offering: null, vms: ['one'], full: true, isolated: false },
      windowSeconds: null,
      note: 'why',
    });
  });
});

describe('spans of time', () => {
  it.each([
    ['30s', 30],
    ['1h30m', 5400],
    ['2w', 1_209_600],
    ['1d', 86_400],
  ])('%s is %i seconds', (text, seconds) => {
    expect(parseSpan(text)).toBe(seconds);
    expect(parseSpan(spanText(seconds))).toBe(seconds);
  });

  it.each(['', '5', 'h', '-1h', '1.5h', '1h ', '1y', '9999999h'])('%j is none', (text) => {
    expect(parseSpan(text)).toBeUndefined();
  });
});

describe('a scheduled check', () => {
  it('compares every file within 30 days unless told, and keeps what an update does not name', () => {
    const made = make('--check', 'main', '--at', '3:00', '--rate', '100M');
    expect(made.task).toEqual({
      kind: 'check',
      repository: 'main',
      verifyWithinSeconds: 30 * 86_400,
      samplePercent: null,
      rateBytesPerSecond: 100 * 1024 ** 2,
    });
    expect(changedTask(made.task, parse('--sample', '10%', '--verify-within', '7d'))).toEqual({
      ...made.task,
      samplePercent: 10,
      verifyWithinSeconds: 7 * 86_400,
    });
    expect(changedTask(made.task, parse('--rate', 'none'))).toMatchObject({ rateBytesPerSecond: null });
  });

  it.each([
    ['--check main --vm one --every 1d', '--check'],
    ['--check main --report --every 1d', '--check and --report'],
    ['--vm one --every 1d --sample 10', '--sample'],
  ])('is refused with what makes no sense: %s', (line, flag) => {
    expect(() => make(...line.split(' '))).toThrow(
      expect.objectContaining({ issues: [expect.objectContaining({ path: [flag] })] }) as Error,
    );
  });
});

it('the longest gap of a schedule is that between two runs that follow each other', () => {
  const at = (day: number): string => `2026-11-${String(day).padStart(2, '0')}T02:30:00.000Z`;
  expect(longestGap([at(9), at(2), at(6)])).toBe(4 * 86_400);
  expect(longestGap([at(2)])).toBeNull();
});
