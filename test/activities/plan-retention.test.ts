import { describe, expect, it } from 'vitest';
import { planRetention, type JudgedBackup } from '../../activities/control/plan-retention.ts';
import { retentionRules, type RetentionRules } from '../../schemas/retention.ts';
import type { BackupState } from '../../schemas/states.ts';

type Odd = Partial<JudgedBackup['backup']> & { pinned?: boolean; damage?: string };

/** A backup named by its instant, in UTC unless that says otherwise. */
function at(instant: string, { pinned = false, damage, ...odd }: Odd = {}): JudgedBackup {
  return {
    backup: {
      id: instant,
      state: 'BackedUp',
      instant: new Date(/[Z+]|-\d\d:/.test(instant) ? instant : `${instant}Z`).toISOString(),
      validation: 'NotValidated',
      compression: 'None',
      ...odd,
    },
    pinned,
    damage: damage ?? null,
  };
}

const NOW = new Date('2026-11-21T12:00:00Z');

function judge(
  backups: JudgedBackup[],
  rules: Partial<RetentionRules>,
  options: { now?: Date; currentId?: string; neededHidden?: Set<string> } = {},
): Record<string, string[]> {
  const verdicts = planRetention(backups, retentionRules.parse(rules), { now: NOW, ...options });
  return Object.fromEntries(verdicts.map(({ id, keptBy }) => [id, keptBy]));
}

/** What stays, newest first. */
const kept = (...parameters: Parameters<typeof judge>): string[] =>
  Object.entries(judge(...parameters))
    .filter(([, keptBy]) => keptBy.length > 0)
    .map(([id]) => id);

/** One at noon of each of the last `count` days, newest first. */
const days = (count: number, from = NOW): string[] =>
  Array.from({ length: count }, (_, n) => new Date(from.getTime() - n * 86_400_000).toISOString().slice(0, 16));

describe('planRetention', () => {
  describe('counts', () => {
    const table: { name: string; backups: string[]; rules: Partial<RetentionRules>; stays: string[] }[] = [
      { name: 'nothing', backups: [], rules: { last: 3 }, stays: [] },
      { name: 'fewer than a rule wants', backups: days(2), rules: { last: 3, yearly: 9 }, stays: days(2) },
      { name: 'the newest N', backups: days(5), rules: { last: 2 }, stays: days(2) },
      {
        name: 'the newest of each hour that has one, not of each hour',
        backups: ['2026-11-21T11:50', '2026-11-21T11:10', '2026-11-21T09:59', '2026-11-21T09:00', '2026-11-20T09:00'],
        rules: { hourly: 3 },
        stays: ['2026-11-21T11:50', '2026-11-21T09:59', '2026-11-20T09:00'],
      },
      {
        name: 'the newest of each day',
        backups: ['2026-11-21T10:00', '2026-11-21T01:00', '2026-11-20T23:59', '2026-11-20T00:00', '2026-11-18T12:00'],
        rules: { daily: 2 },
        stays: ['2026-11-21T10:00', '2026-11-20T23:59'],
      },
      {
        name: 'ISO weeks, which begin on Monday',
        backups: ['2026-11-16T00:00', '2026-11-15T23:59', '2026-11-09T00:00', '2026-11-08T23:59'],
        rules: { weekly: 3 },
        stays: ['2026-11-16T00:00', '2026-11-15T23:59', '2026-11-08T23:59'],
      },
      {
        name: 'one week across New Year: 2026-W53 ends on January 3rd',
        backups: ['2027-01-04T12:00', '2027-01-03T12:00', '2026-12-31T12:00', '2026-12-28T12:00', '2026-12-27T12:00'],
        rules: { weekly: 3 },
        stays: ['2027-01-04T12:00', '2027-01-03T12:00', '2026-12-27T12:00'],
      },
      {
        name: 'December days that belong to the first week of the next year: 2024-12-30 is in 2025-W01',
        backups: ['2025-01-05T12:00', '2024-12-30T12:00', '2024-12-29T12:00'],
        rules: { weekly: 2 },
        stays: ['2025-01-05T12:00', '2024-12-29T12:00'],
      },
      {
        name: 'months and years',
        backups: ['2026-11-01T00:00', '2026-10-31T23:59', '2026-10-01T00:00', '2026-01-01T00:00', '2025-12-31T23:59'],
        rules: { monthly: 2, yearly: 2 },
        stays: ['2026-11-01T00:00', '2026-10-31T23:59', '2025-12-31T23:59'],
      },
      {
        name: 'grandfather, father, son over a year',
        backups: days(400),
        rules: { daily: 7, weekly: 4, monthly: 12, yearly: 2 },
        stays: [
          ...days(7), // 21st to 15th; the 15th is the Sunday of a week, too
          '2026-11-08T12:00',
          '2026-11-01T12:00',
          '2026-10-31T12:00',
          '2026-09-30T12:00',
          '2026-08-31T12:00',
          '2026-07-31T12:00',
          '2026-06-30T12:00',
          '2026-05-31T12:00',
          '2026-04-30T12:00',
          '2026-03-31T12:00',
          '2026-02-28T12:00',
          '2026-01-31T12:00',
          '2025-12-31T12:00',
        ],
      },
    ];
    it.each(table)('$name', ({ backups, rules, stays }) => {
      const judged = backups.map((instant) => at(instant));
      expect(kept(judged, rules)).toEqual(stays);
      expect(kept(judged.toReversed(), rules), 'in whatever order they come').toEqual(stays);
    });
  });

  describe('by the clocks of a time zone', () => {
    it('puts an instant into the day it is there', () => {
      const backups = [at('2026-11-21T10:30'), at('2026-11-21T09:30'), at('2026-11-20T10:30')];
      expect(kept(backups, { daily: 9 })).toHaveLength(2);
      expect(judge(backups, { daily: 9, timezone: 'Pacific/Kiritimati' })).toMatchObject({
        '2026-11-21T10:30': ['daily 2026-11-22', 'newest good one'],
        '2026-11-21T09:30': ['daily 2026-11-21'], // at 23:30
        '2026-11-20T10:30': [], // at 00:30 of the same day
      });
    });

    it('keeps both hours that clocks show twice when summer time ends', () => {
      const backups = [at('2026-10-25T02:30+01:00'), at('2026-10-25T02:30+02:00'), at('2026-10-25T02:10+02:00')];
      expect(judge(backups, { hourly: 9, timezone: 'Europe/Berlin' })).toEqual({
        '2026-10-25T02:30+01:00': ['hourly 2026-10-25T02+01:00', 'newest good one'],
        '2026-10-25T02:30+02:00': ['hourly 2026-10-25T02+02:00'],
        '2026-10-25T02:10+02:00': [],
      });
    });

    it('knows days of 23 and of 25 hours', () => {
      const spring = ['2026-03-29T00:00+01:00', '2026-03-29T23:59+02:00', '2026-03-30T00:00+02:00'];
      const autumn = ['2026-10-25T00:00+02:00', '2026-10-25T23:59+01:00', '2026-10-26T00:00+01:00'];
      for (const [first = '', last = '', next = ''] of [spring, autumn]) {
        const backups = [first, last, next].map((instant) => at(instant));
        expect(kept(backups, { daily: 9, timezone: 'Europe/Berlin' })).toEqual([next, last]);
      }
    });

    it('has hours where the offset is half an hour', () => {
      const backups = [at('2026-11-21T10:40'), at('2026-11-21T10:20')]; // 16:10 and 15:50
      expect(kept(backups, { hourly: 9, timezone: 'Asia/Kolkata' })).toHaveLength(2);
    });

    it('begins years and weeks there, too', () => {
      const backups = [at('2026-12-31T23:30'), at('2026-12-31T22:30')]; // one of them is in 2027 in Berlin
      expect(kept(backups, { yearly: 9 })).toHaveLength(1);
      expect(kept(backups, { yearly: 9, timezone: 'Europe/Berlin' })).toHaveLength(2);
    });

    it('refuses a zone nobody knows', () => {
      expect(retentionRules.safeParse({ timezone: 'Mars/Olympus' }).error?.issues[0]?.message).toMatch(
        /IANA time zone/,
      );
    });
  });

  it('says all that wants a backup to live', () => {
    expect(judge([at('2026-11-21T10:00'), at('2026-11-20T10:00')], { last: 1, daily: 2, yearly: 1 })).toEqual({
      '2026-11-21T10:00': ['last', 'daily 2026-11-21', 'yearly 2026', 'newest good one'],
      '2026-11-20T10:00': ['daily 2026-11-20'],
    });
  });

  describe('whatever the rules say', () => {
    const [newest = '', middle = '', oldest = ''] = days(3);
    const three = (odd: Odd, which = oldest): JudgedBackup[] =>
      [newest, middle, oldest].map((instant) => at(instant, instant === which ? odd : {}));

    it('keeps what is pinned', () => {
      expect(kept(three({ pinned: true }), { last: 1 })).toEqual([newest, oldest]);
    });

    it('keeps what is younger than the minimum age, to the second', () => {
      const minimumAgeSeconds = 86_400;
      expect(kept(three({}), { last: 1, minimumAgeSeconds })).toEqual([newest]);
      expect(kept(three({}), { last: 1, minimumAgeSeconds: minimumAgeSeconds + 1 })).toEqual([newest, middle]);
      expect(kept(three({}), { minimumAgeSeconds }), 'an age alone is a rule').toEqual([newest]);
    });

    it('keeps the newest good one', () => {
      expect(judge([at(oldest)], { minimumAgeSeconds: 1 })).toEqual({ [oldest]: ['newest good one'] });
    });

    it('keeps the one that the next is built on, though an isolated one is newer', () => {
      expect(kept(three({}), { last: 1 }, { currentId: middle })).toEqual([newest, middle]);
    });

    it('keeps all where there is no rule', () => {
      expect(kept(three({}), {})).toEqual([newest, middle, oldest]);
    });

    it.each([
      [{ state: 'Restoring' }, 'being restored'],
      [{ compression: 'Compressing' }, 'being compressed'],
      [{ validation: 'Validating' }, 'being validated'],
    ] as const)('keeps one with %j, for now', (odd, reason) => {
      expect(judge(three(odd), { last: 1 })[oldest]).toEqual([reason]);
    });

    it.each([
      ['damaged', { damage: 'a file is missing' }],
      ['NotValid', { validation: 'NotValid' }],
    ] as const)('lets no %s one take the place of a good one', (_, odd) => {
      expect(judge(three(odd, newest), { last: 1, daily: 1 })).toEqual({
        [newest]: ['no newer good one'],
        [middle]: ['last', 'daily 2026-11-20', 'newest good one'],
        [oldest]: [],
      });
      expect(kept(three(odd, middle), { last: 2 }), 'and lets it go when a newer good one is there').toEqual([
        newest,
        oldest,
      ]);
    });

    it('keeps all where none is good', () => {
      const bad = [newest, middle].map((instant) => at(instant, { validation: 'NotValid' }));
      expect(kept(bad, { last: 1 })).toEqual([newest, middle]);
    });

    it('counts one that could not be validated as good', () => {
      expect(kept(three({ validation: 'UnableToValidate' }, newest), { last: 1 })).toEqual([newest]);
    });
  });

  describe('what did not come about, or is hidden', () => {
    const [newest = '', middle = '', oldest = ''] = days(3);
    const third = (state: BackupState, instant?: null): JudgedBackup =>
      at(oldest, { state, ...(instant === null ? { instant } : {}) });

    it.each([
      ['Failed', null],
      ['Error', null],
      ['BackingUp', null],
      ['Expunged', undefined],
    ] as const)('%s neither counts nor goes', (state, instant) => {
      expect(judge([at(newest), at(middle), third(state, instant)], { last: 2 })).toEqual({
        [newest]: ['last', 'newest good one'],
        [middle]: ['last'],
      });
    });

    it('repeats a delete that stopped, pinned or young as it may be', () => {
      const backups = [at(newest), at(oldest, { state: 'Error', pinned: true })];
      expect(judge(backups, { last: 5, minimumAgeSeconds: 1e6 })[oldest]).toEqual([]);
    });

    it('leaves a hidden one to those that are built on it, and ends its delete when there are none', () => {
      const backups = [at(newest), third('Removed')];
      expect(judge(backups, { last: 5 }, { neededHidden: new Set([oldest]) })).not.toHaveProperty([oldest]);
      expect(judge(backups, { last: 5 }, { neededHidden: new Set() })[oldest]).toEqual([]);
    });
  });
});
