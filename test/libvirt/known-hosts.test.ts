import { createHmac, randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { keyFingerprint, knownHostKeys } from '../../libvirt/known-hosts.ts';

const KEY = Buffer.from('one key');
const OTHER = Buffer.from('another key');
const line = (names: string, key = KEY, marker = ''): string =>
  `${marker}${names} ssh-ed25519 ${key.toString('base64')} a comment`;

function hashed(name: string): string {
  const salt = randomBytes(20);
  return `|1|${salt.toString('base64')}|${createHmac('sha1', salt).update(name).digest('base64')}`;
}

describe('known hosts', () => {
  it.each([
    ['a plain name', line('kvm-1'), 'kvm-1', 22],
    ['one of several names', line('10.0.0.1,kvm-1'), 'kvm-1', 22],
    ['a name in another case', line('KVM-1'), 'kvm-1', 22],
    ['another port', line('[kvm-1]:2222'), 'kvm-1', 2222],
    ['a pattern', line('kvm-?,*.example.org'), 'a.example.org', 22],
    ['a hashed name', line(hashed('kvm-1')), 'kvm-1', 22],
    ['a hashed name with a port', line(hashed('[kvm-1]:2222')), 'kvm-1', 2222],
    ['a line among others', `# comment\n\n${line('kvm-2', OTHER)}\n${line('kvm-1')}\n`, 'kvm-1', 22],
  ])('are found by %s', (_, file, host, port) => {
    expect(knownHostKeys(file, host, port)).toEqual([{ type: 'ssh-ed25519', key: KEY, revoked: false }]);
  });

  it.each([
    ['another name', line('kvm-2'), 'kvm-1', 22],
    ['a name that only begins alike', line('kvm-1'), 'kvm-11', 22],
    ['a dot that is a dot', line('kvm.1'), 'kvm-1', 22],
    ['the default port for another', line('kvm-1'), 'kvm-1', 2222],
    ['a negated pattern', line('kvm-*,!kvm-1'), 'kvm-1', 22],
    ['a certificate authority', line('kvm-1', KEY, '@cert-authority '), 'kvm-1', 22],
    ['a comment', `#${line('kvm-1')}`, 'kvm-1', 22],
    ['half a line', 'kvm-1 ssh-ed25519', 'kvm-1', 22],
  ])('are not found by %s', (_, file, host, port) => {
    expect(knownHostKeys(file, host, port)).toEqual([]);
  });

  it('are marked when revoked', () => {
    expect(knownHostKeys(line('*', KEY, '@revoked '), 'kvm-1', 22)).toMatchObject([{ revoked: true }]);
  });

  it('have fingerprints as ssh-keygen prints them', () => {
    // ssh-keygen -lf of this very key
    const key = 'AAAAC3NzaC1lZDI1NTE5AAAAIGySl9s0c67oVtVj6NHZo8tcCDcqhaJzDKX8Z5CMQzGm';
    expect(keyFingerprint(Buffer.from(key, 'base64'))).toBe('SHA256:QxqdqLSGZEiug858dsftImFda/2OKb2tAybRPdirmhc');
  });
});
