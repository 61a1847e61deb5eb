import { describe, expect, it } from 'vitest';
import { bandwidth, rateAt, type Bandwidth } from '../../schemas/bandwidth.ts';

const OFFICE: Bandwidth = {
  version: 1,
  rate: 1000,
  rules: [
    { on: ['mon', 'tue', 'wed', 'thu', 'fri'], from: '08:00', to: '18:00', rate: 10 },
    { on: ['sat'], from: '22:00', to: '06:00', rate: null },
    { on: ['sun'], from: '00:00', to: '00:00', rate: 500 },
  ],
  timezone: 'Europe/Berlin',
};

describe('rateAt', () => {
  // 2026-11-20 is a Friday; Berlin is an hour ahead of UTC in winter, two in summer.
  it.each([
    ['2026-11-20T06:59:59Z', 1000, 'Friday 07:59'],
    ['2026-11-20T07:00:00Z', 10, 'Friday 08:00'],
    ['2026-11-20T16:59:59Z', 10, 'Friday 17:59'],
    ['2026-11-20T17:00:00Z', 1000, 'Friday 18:00'],
    ['2026-11-21T11:00:00Z', 1000, 'Saturday noon'],
    ['2026-11-21T21:00:00Z', null, 'Saturday 22:00'],
    ['2026-11-22T04:59:00Z', null, 'Sunday 05:59, of the rule that began on Saturday'],
    ['2026-11-22T05:00:00Z', 500, 'Sunday 06:00, all day'],
    ['2026-11-22T22:59:00Z', 500, 'Sunday 23:59'],
    ['2026-11-22T23:00:00Z', 1000, 'Monday 00:00'],
    ['2026-07-17T06:00:00Z', 10, 'Friday 08:00 in summer'],
  ] as [string, number | null, string][])('at %s is %s: %s', (at, rate) => {
    expect(rateAt(OFFICE, Date.parse(at))).toBe(rate);
  });

  it('is the rate for the rest where there is no rule', () => {
    expect(rateAt({ ...OFFICE, rules: [] }, 0)).toBe(1000);
    expect(rateAt({ ...OFFICE, rate: null, rules: [] }, 0)).toBeNull();
  });
});

describe('bandwidth', () => {
  it.each([
    ['a zone that is none', { timezone: 'Europe/Atlantis' }],
    ['a rate of nothing, which would never end', { rate: 0 }],
    ['an hour that is none', { rules: [{ on: ['mon'], from: '24:00', to: '06:00', rate: 1 }] }],
    ['a rule for no day', { rules: [{ on: [], from: '08:00', to: '18:00', rate: 1 }] }],
  ])('refuses %s', (_, change) => {
    expect(bandwidth.safeParse({ ...OFFICE, ...change }).success).toBe(false);
  });
});
