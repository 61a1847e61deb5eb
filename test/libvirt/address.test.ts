import { describe, expect, it } from 'vitest';
import { describeAddress, LibvirtAddressError, parseLibvirtAddress } from '../../libvirt/address.ts';

describe('a libvirt address', () => {
  it('is a path of a socket', () => {
    expect(parseLibvirtAddress('/run/libvirt/libvirt-sock')).toEqual({
      kind: 'unix',
      path: '/run/libvirt/libvirt-sock',
    });
  });

  it('is a socket on a host reached by SSH', () => {
    const address = parseLibvirtAddress('ssh://backup@kvm-1:2222/run/libvirt/virtqemud-sock');
    expect(address).toEqual({
      kind: 'ssh',
      host: 'kvm-1',
      port: 2222,
      user: 'backup',
      socketPath: '/run/libvirt/virtqemud-sock',
    });
    expect(describeAddress(address)).toBe('ssh://backup@kvm-1:2222/run/libvirt/virtqemud-sock');
  });

  it('takes files and a fingerprint as options, and the usual socket where none is named', () => {
    const fingerprint = 'SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU';
    expect(
      parseLibvirtAddress(`ssh://root@[fd00::1]?key=/etc/hf/key&known-hosts=/etc/hf/known&fingerprint=${fingerprint}`),
    ).toEqual({
      kind: 'ssh',
      host: 'fd00::1',
      user: 'root',
      socketPath: '/run/libvirt/libvirt-sock',
      privateKeyFile: '/etc/hf/key',
      knownHostsFile: '/etc/hf/known',
      fingerprint,
    });
  });

  it.each([
    ['a relative path', 'run/libvirt-sock', /absolute path/],
    ['another scheme', 'qemu+ssh://root@kvm-1/system', /ssh:\/\//],
    ['no user', 'ssh://kvm-1/run/libvirt/libvirt-sock', /names no user/],
    ['a password', 'ssh://root:secret@kvm-1/run/libvirt/libvirt-sock', /password/],
    ['nothing', '', /absolute path/],
  ])('is refused with %s', (_, text, message) => {
    expect(() => parseLibvirtAddress(text)).toThrow(LibvirtAddressError);
    expect(() => parseLibvirtAddress(text)).toThrow(message);
  });

  it('does not repeat a password in its complaint', () => {
    expect(() => parseLibvirtAddress('ssh://root:secret@kvm-1/x')).not.toThrow(/secret/);
  });
});
