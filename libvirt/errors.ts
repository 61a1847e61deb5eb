/**
 * Numbers of virErrorNumber that callers branch on. libvirt shares them between its drivers, so they are matched by
 * number and never by text. Source: include/libvirt/virterror.h (same numbers in 9.0.0 and 11.3.0).
 */
export const LIBVIRT_ERRORS = {
  INTERNAL_ERROR: 1,
  NO_SUPPORT: 3,
  INVALID_ARG: 8,
  OPERATION_FAILED: 9,
  XML_ERROR: 27,
  DOM_EXIST: 28,
  OPERATION_DENIED: 29,
  XML_DETAIL: 35,
  SYSTEM_ERROR: 38,
  RPC: 39,
  NO_DOMAIN: 42,
  AUTH_FAILED: 45,
  OPERATION_INVALID: 55,
  CONFIG_UNSUPPORTED: 67,
  OPERATION_TIMEOUT: 68,
  NO_DOMAIN_SNAPSHOT: 72,
  ARGUMENT_UNSUPPORTED: 74,
  OPERATION_ABORTED: 78,
  NO_DOMAIN_METADATA: 80,
  BLOCK_COPY_ACTIVE: 83,
  OPERATION_UNSUPPORTED: 84,
  AGENT_UNRESPONSIVE: 86,
  RESOURCE_BUSY: 87,
  ACCESS_DENIED: 88,
  XML_INVALID_SCHEMA: 92,
  AUTH_UNAVAILABLE: 94,
  AGENT_UNSYNCED: 97,
  DEVICE_MISSING: 99,
  INVALID_DOMAIN_CHECKPOINT: 102,
  NO_DOMAIN_CHECKPOINT: 103,
  NO_DOMAIN_BACKUP: 104,
  CHECKPOINT_INCONSISTENT: 109,
  AGENT_COMMAND_TIMEOUT: 112, // since 11.2
  AGENT_COMMAND_FAILED: 113, // since 11.2
} as const;

/** What libvirt answered to a call: it was carried out as far as libvirt says, and failed. */
export class LibvirtError extends Error {
  override readonly name = 'LibvirtError';
  /** virErrorNumber; see LIBVIRT_ERRORS. */
  readonly code: number;
  /** virErrorDomain: the part of libvirt that failed. */
  readonly domain: number;
  /** The procedure that failed, in the protocol's words: `DOMAIN_BACKUP_BEGIN`. */
  readonly procedure: string;
  constructor(procedure: string, code: number, domain: number, message: string) {
    super(message);
    this.procedure = procedure;
    this.code = code;
    this.domain = domain;
  }
}

/** True for a LibvirtError of one of the given numbers. */
export const isLibvirtError = (error: unknown, ...codes: readonly number[]): error is LibvirtError =>
  error instanceof LibvirtError && codes.includes(error.code);

/**
 * No connection, or it broke. With `sent` the call had left and its outcome is unknown: it may have been carried out,
 * may be running still, or may never have arrived. Look before repeating. Without it nothing has happened.
 */
export class LibvirtConnectionLost extends Error {
  override readonly name = 'LibvirtConnectionLost';
  readonly sent: boolean;
  constructor(message: string, options: ErrorOptions & { sent: boolean }) {
    super(options.sent ? `${message}; whether it was carried out is unknown` : message, options);
    this.sent = options.sent;
  }
}

/** No answer in time. With `sent` the outcome is unknown: libvirt has no cancel, the call goes on there. */
export class LibvirtTimeout extends Error {
  override readonly name = 'LibvirtTimeout';
  readonly sent: boolean;
  constructor(procedure: string, timeoutMs: number, sent: boolean) {
    super(
      sent
        ? `libvirt did not answer ${procedure} within ${timeoutMs} ms; whether it was carried out is unknown`
        : `${procedure} waited ${timeoutMs} ms behind other calls to libvirt and was not sent`,
    );
    this.sent = sent;
  }
}

/** The host is not who it should be, or does not let us in. Trying again will not help. */
export class LibvirtRefused extends Error {
  override readonly name = 'LibvirtRefused';
}

/** QEMU's own answer to a monitor command that failed. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  /** QEMU's error class: `GenericError`, `DeviceNotFound`, ... */
  readonly errorClass: string;
  constructor(errorClass: string, description: string) {
    super(description);
    this.errorClass = errorClass;
  }
}
