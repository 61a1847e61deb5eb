import { describe, expect, it } from 'vitest';
import { clockChanges, explainDaylightSaving, type CalendarTimes } from '../../operations/daylight-saving.ts';

const FROM = new Date('2026-11-21T12:00:00Z');
const calendar = (hour: number, minute: number, more: Partial<CalendarTimes> = {}): CalendarTimes => ({
  hour: [{ start: hour, end: hour, step: 1 }],
  minute: [{ start: minute, end: minute, step: 1 }],
  dayOfWeek: [{ start: 'SUNDAY', end: 'SATURDAY', step: 1 }],
  dayOfMonth: [{ start: 1, end: 31, step: 1 }],
  month: [{ start: 'JANUARY', end: 'DECEMBER', step: 1 }],
  ...more,
});

describe('clockChanges', () => {
  it.each([
    ['Europe/Berlin', ['gap 2027-03-28T01:00', 'overlap 2027-10-31T01:00']],
    ['America/New_York', ['gap 2027-03-14T07:00', 'overlap 2027-11-07T06:00']],
    ['Australia/Lord_Howe', ['overlap 2027-04-03T15:00', 'gap 2027-10-02T15:30']], // by half an hour
    ['America/St_Johns', ['gap 2027-03-14T05:30', 'overlap 2027-11-07T04:30']],
    ['UTC', []],
    ['Asia/Kolkata', []],
  ])('finds those of %s', (zone, expected) => {
    expect(clockChanges(zone, FROM).map(({ kind, at }) => `${kind} ${at.slice(0, 16)}`)).toEqual(expected);
  });
});

describe('explainDaylightSaving', () => {
  /** What Temporal does: a time that does not exist is left out, one that comes twice is run the second time. */
  const runs = (times: string[]) => (from: string, to: string) =>
    Promise.resolve(times.filter((time) => time > from && time <= to));

  it('tells of the night without a run, and of the one that could have two', async () => {
    const lines = await explainDaylightSaving(
      [calendar(2, 30)],
      'Europe/Berlin',
      FROM,
      runs(['2027-10-31T01:30:00.000Z']),
    );
    expect(lines).toEqual([
      '2027-03-28 Europe/Berlin: clocks go forward from 02:00 to 03:00; 02:30 does not exist that day: no run',
      '2027-10-31 Europe/Berlin: clocks go back from 03:00 to 02:00; 02:30 comes twice: runs once, the second time',
    ]);
  });

  it.each([
    ['the first time', ['2027-10-31T00:30:00.000Z'], 'runs once, the first time'],
    ['twice', ['2027-10-31T00:30:00.000Z', '2027-10-31T01:30:00.000Z'], 'runs twice'],
  ])('tells what Temporal does: %s', async (_what, times, expected) => {
    const [, line] = await explainDaylightSaving([calendar(2, 30)], 'Europe/Berlin', FROM, runs(times));
    expect(line).toContain(expected);
  });

  it.each([
    ['a time beside the change', [calendar(3, 0)], 'Europe/Berlin'],
    [
      'another day of the week',
      [calendar(2, 30, { dayOfWeek: [{ start: 'MONDAY', end: 'MONDAY', step: 1 }] })],
      'Europe/Berlin',
    ],
    ['another day of the month', [calendar(2, 30, { dayOfMonth: [{ start: 1, end: 1, step: 1 }] })], 'Europe/Berlin'],
    ['another month', [calendar(2, 30, { month: [{ start: 'JUNE', end: 'JULY', step: 1 }] })], 'Europe/Berlin'],
    ['UTC', [calendar(2, 30)], 'UTC'],
    ['intervals', [], 'Europe/Berlin'],
  ])('has nothing to tell of %s', async (_what, calendars, zone) => {
    expect(await explainDaylightSaving(calendars, zone, FROM, runs([]))).toEqual([]);
  });

  it('sums up many times', async () => {
    const often = calendar(2, 0, { minute: [{ start: 0, end: 59, step: 5 }] });
    const [line] = await explainDaylightSaving([often], 'Europe/Berlin', FROM, runs([]));
    expect(line).toContain('02:00 to 02:55 (12 times) do not exist');
  });

  it.each([
    ['the second time', ['2027-10-31T01:39:10.000Z'], 600, 'runs once, the second time'],
    ['either time', ['2027-10-31T01:39:10.000Z'], 7200, 'runs once'],
  ])('knows a run that jitter put off: %s', async (_what, times, jitter, expected) => {
    const [, line] = await explainDaylightSaving([calendar(2, 30)], 'Europe/Berlin', FROM, runs(times), jitter);
    expect(line).toMatch(new RegExp(`${expected}$`));
  });
});
