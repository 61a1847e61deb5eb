/**
 * Error numbers of the protocol; they are Linux's, on every platform.
 * Source: NetworkBlockDevice/nbd doc/proto.md, "Error values"
 */
const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM',
  5: 'EIO',
  12: 'ENOMEM',
  22: 'EINVAL',
  28: 'ENOSPC',
  75: 'EOVERFLOW',
  95: 'ENOTSUP',
  108: 'ESHUTDOWN',
};

/** The server answered a command with an error; the connection goes on. */
export class NbdError extends Error {
  override readonly name = 'NbdError';
  readonly errno: number;
  /** `EIO`, `ESHUTDOWN`, …; `E<number>` for one the protocol does not name. */
  readonly code: string;
  constructor(errno: number, what: string) {
    const code = ERRNO_NAMES[errno] ?? `E${errno}`;
    super(`${what}: ${code}`);
    this.errno = errno;
    this.code = code;
  }
}

/** The connection could not be made or has ended; every command still without an answer fails with this. */
export class NbdConnectionLost extends Error {
  override readonly name = 'NbdConnectionLost';
}

/** The server sent what the protocol does not allow. The connection is closed. */
export class NbdProtocolError extends Error {
  override readonly name = 'NbdProtocolError';
}

export type NbdRefusal =
  | 'unsupported'
  | 'policy'
  | 'invalid'
  | 'platform'
  | 'tls-required'
  | 'unknown'
  | 'shutdown'
  | 'block-size'
  | 'too-big'
  | 'other';

/** The server refused an option while the connection was set up; `unknown` means it has no such export. */
export class NbdRefused extends Error {
  override readonly name = 'NbdRefused';
  readonly code: NbdRefusal;
  constructor(code: NbdRefusal, message: string) {
    super(message);
    this.code = code;
  }
}
