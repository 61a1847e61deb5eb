import { existsSync } from 'node:fs';

/** Where a libvirt daemon listens. */
export type LibvirtAddress =
  | { kind: 'unix'; path: string }
  | {
      kind: 'ssh';
      host: string;
      port?: number;
      user: string;
      /** The daemon's socket on that host. */
      socketPath: string;
      /** Without one, the agent at SSH_AUTH_SOCK is asked. */
      privateKeyFile?: string;
      /** Default `~/.ssh/known_hosts`. */
      knownHostsFile?: string;
      /** Pins the host key instead: `SHA256:` and base64, as `ssh-keygen -l` prints it. */
      fingerprint?: string;
    };

/** The modular daemon of QEMU first, then the monolithic one, which also runs where only it is installed. */
export const DEFAULT_SOCKET_PATHS = ['/run/libvirt/virtqemud-sock', '/run/libvirt/libvirt-sock'] as const;

/** The socket of this machine's libvirt: the first that exists, or the last of the list for the error to name. */
export const defaultSocketPath = (): string =>
  DEFAULT_SOCKET_PATHS.find((path) => existsSync(path)) ?? '/run/libvirt/libvirt-sock';

export class LibvirtAddressError extends Error {
  override readonly name = 'LibvirtAddressError';
}

/**
 * Reads `/run/libvirt/libvirt-sock` or `ssh://user@host:port/run/libvirt/libvirt-sock`; for the latter `?key=FILE`,
 * `?known-hosts=FILE` and `?fingerprint=SHA256:...` are options.
 */
export function parseLibvirtAddress(text: string): LibvirtAddress {
  if (text.startsWith('/')) return { kind: 'unix', path: text };
  const url = text.startsWith('ssh://') ? URL.parse(text) : null;
  if (url === null) {
    throw new LibvirtAddressError(
      `not a libvirt address: "${text}"; give the absolute path of a socket or ssh://user@host:port/path/to/socket`,
    );
  }
  if (url.password !== '') {
    throw new LibvirtAddressError(`a password in ssh://…@${url.host} would be seen by others; use a key or an agent`);
  }
  const user = decodeURIComponent(url.username);
  if (user === '') throw new LibvirtAddressError(`${text} names no user; write ssh://user@${url.host}/…`);
  const socketPath = decodeURIComponent(url.pathname);
  const option = (name: string): string | undefined => url.searchParams.get(name) ?? undefined;
  const [privateKeyFile, knownHostsFile, fingerprint] = [option('key'), option('known-hosts'), option('fingerprint')];
  return {
    kind: 'ssh',
    host: url.hostname.replace(/^\[(.*)\]$/, '$1'),
    user,
    socketPath: socketPath === '' || socketPath === '/' ? '/run/libvirt/libvirt-sock' : socketPath,
    ...(url.port !== '' && { port: Number(url.port) }),
    ...(privateKeyFile !== undefined && { privateKeyFile }),
    ...(knownHostsFile !== undefined && { knownHostsFile }),
    // In a query "+" means a space, and base64 has plus signs.
    ...(fingerprint !== undefined && { fingerprint: fingerprint.replaceAll(' ', '+') }),
  };
}

/** For messages: names the place, and no secret. */
export const describeAddress = (address: LibvirtAddress): string =>
  address.kind === 'unix'
    ? address.path
    : `ssh://${address.user}@${address.host}:${address.port ?? 22}${address.socketPath}`;
