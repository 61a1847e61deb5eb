import { describe, expect, it } from 'vitest';
import { bandwidthText, parseBandwidthRule, parseBytesPerSecond } from '../../cli/bandwidth-rules.ts';

describe('parseBytesPerSecond', () => {
  it.each([
    ['1', 1],
    ['50M', 50 * 1024 ** 2],
    ['1.5g', 1.5 * 1024 ** 3],
    ['20MiB', 20 * 1024 ** 2],
    ['none', null],
  ])('reads %s', (text, rate) => {
    expect(parseBytesPerSecond(text)).toBe(rate);
  });

  it.each(['', '0', '-5M', '50X', 'fast', '0.2', '99999999G'])('refuses "%s"', (text) => {
    expect(() => parseBytesPerSecond(text)).toThrow('like 50M');
  });
});

describe('parseBandwidthRule', () => {
  it('reads days, hours and rate', () => {
    expect(parseBandwidthRule('mon-wed,sat 08:00-18:30=10M')).toEqual({
      on: ['mon', 'tue', 'wed', 'sat'],
      from: '08:00',
      to: '18:30',
      rate: 10 * 1024 ** 2,
    });
  });

  it('reads days over the end of the week, and no limit', () => {
    expect(parseBandwidthRule('sat-mon 22:00-06:00=none')).toEqual({
      on: ['sat', 'sun', 'mon'],
      from: '22:00',
      to: '06:00',
      rate: null,
    });
  });

  it.each(['mon 08:00-18:00', '08:00-18:00=1M', 'foo 08:00-18:00=1M', 'mon-tue-wed 08:00-18:00=1M'])(
    'refuses "%s"',
    (text) => {
      expect(() => parseBandwidthRule(text)).toThrow('give');
    },
  );
});

it.each(['mon 08:00-24:00=1M', 'mon 25:00-26:00=1M', 'mon 08:60-09:00=1M'])('is no rule: "%s"', (text) => {
  expect(() => parseBandwidthRule(text)).toThrow('no time of day');
});

describe('bandwidthText', () => {
  it('tells the rate and its exceptions', () => {
    const rules = [parseBandwidthRule('sat-sun 00:00-00:00=none')];
    expect(bandwidthText({ version: 1, rate: 1024 ** 2, rules, timezone: 'UTC' })).toBe(
      '1.0 MiB/s, but (UTC):\n  sat,sun 00:00-00:00: as fast as it goes',
    );
    expect(bandwidthText(undefined)).toBe('no limit');
  });
});
