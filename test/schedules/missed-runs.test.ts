import { describe, expect, it } from 'vitest';
import { decideMissed } from '../../operations/missed-runs.ts';

const NOW = new Date('2026-11-21T12:00:00.000Z');
const at = (time: string): string => `2026-11-21T${time}.000Z`;
const facts = {
  expected: [] as string[],
  covered: [] as string[],
  runs: [] as { startedAt: string | null; endedAt: string | null }[],
  jitterSeconds: 0,
  catchUpSeconds: 3600,
  runsOverlap: true,
  paused: null as string | null,
  now: NOW,
};

describe('decideMissed', () => {
  it.each([
    ['a run that was', { expected: [at('02:30:00')], covered: [at('02:30:00')] }, [], NOW.toISOString()],
    [
      'a run that was, put off by jitter',
      { expected: [at('02:34:10')], covered: [at('02:30:00')], jitterSeconds: 600 },
      [],
      NOW.toISOString(),
    ],
    [
      'a run that nobody could start in time',
      { expected: [at('02:30:00')] },
      [[at('02:30:00'), 'missed', 'Temporal could not start it within its catch-up time of 1h']],
      NOW.toISOString(),
    ],
    ['a run that may yet be made up for', { expected: [at('11:30:00')] }, [], at('11:29:59').replace('.000', '.999')],
    [
      'runs of a paused schedule, however young',
      { expected: [at('02:30:00'), at('11:59:30')], paused: 'storage is moved' },
      [
        [at('02:30:00'), 'missed', 'paused: storage is moved'],
        [at('11:59:30'), 'missed', 'paused: storage is moved'],
      ],
      NOW.toISOString(),
    ],
    [
      'a run while the former one still went on',
      { expected: [at('11:30:00')], runsOverlap: false, runs: [{ startedAt: at('11:00:00'), endedAt: null }] },
      [[at('11:30:00'), 'skipped', `the run of ${at('11:00:00')} still went on`]],
      NOW.toISOString(),
    ],
    [
      'a run beside a former one, where runs may overlap',
      { expected: [at('11:30:00')], runs: [{ startedAt: at('11:00:00'), endedAt: null }] },
      [],
      at('11:29:59').replace('.000', '.999'),
    ],
    [
      'a run after the former one ended',
      {
        expected: [at('10:00:00')],
        runsOverlap: false,
        runs: [{ startedAt: at('09:00:00'), endedAt: at('09:30:00') }],
      },
      [[at('10:00:00'), 'missed', 'Temporal could not start it within its catch-up time of 1h']],
      NOW.toISOString(),
    ],
  ])('decides on %s', (_what, given, missed, checkedUntil) => {
    const decided = decideMissed({ ...facts, ...given });
    expect(decided.missed.map(({ at: time, state, reason }) => [time, state, reason])).toEqual(missed);
    expect(decided.checkedUntil).toBe(checkedUntil);
  });

  it('tells many of a paused schedule of seconds in few lines, and how many they are', () => {
    const expected = Array.from({ length: 900 }, (_, n) => new Date(NOW.getTime() - 20_000 - n * 1000).toISOString());
    const { missed } = decideMissed({ ...facts, expected, paused: '' });
    expect(missed).toHaveLength(200);
    expect(missed[0]?.reason).toBe('paused (as were 700 runs before)');
    expect(missed.at(-1)?.at).toBe(expected[0]);
  });
});
