import { expect, it } from 'vitest';
import { judgeLibvirt, judgeQemu } from '../../cli/doctor/check-libvirt.ts';

it.each([
  ['6.10.0', 'fail'],
  ['7.2.0', 'warn'],
  ['7.10.1', 'ok'],
  ['9.0.0', 'ok'],
  ['10.0.0', 'ok'],
])('libvirt %s: %s', (version, state) => {
  expect(judgeLibvirt(version).state).toBe(state);
});

it.each([
  ['4.1.9', 'fail'],
  ['5.2.0', 'warn'],
  ['7.2.22', 'ok'],
])('QEMU %s: %s', (version, state) => {
  expect(judgeQemu(version).state).toBe(state);
});
