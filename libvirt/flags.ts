/** Flags of the calls we make, in libvirt's names and numbers. Source: include/libvirt/libvirt-domain*.h */
export const XML = { SECURE: 0x1, INACTIVE: 0x2, UPDATE_CPU: 0x4, MIGRATABLE: 0x8 } as const;
export const DEFINE = { VALIDATE: 0x1 } as const;
export const START = { PAUSED: 0x1 } as const;
export const SHUTDOWN = { ACPI_POWER_BTN: 0x1, GUEST_AGENT: 0x2 } as const;
export const UNDEFINE = {
  MANAGED_SAVE: 0x1,
  SNAPSHOTS_METADATA: 0x2,
  NVRAM: 0x4,
  KEEP_NVRAM: 0x8,
  CHECKPOINTS_METADATA: 0x10, // 5.6
  TPM: 0x20, // 8.9
  KEEP_TPM: 0x40, // 8.9
} as const;
export const SNAPSHOT_CREATE = {
  REDEFINE: 0x1,
  CURRENT: 0x2,
  NO_METADATA: 0x4,
  HALT: 0x8,
  DISK_ONLY: 0x10,
  REUSE_EXT: 0x20,
  QUIESCE: 0x40,
  ATOMIC: 0x80,
  LIVE: 0x100,
} as const;
export const SNAPSHOT_LIST = { TOPOLOGICAL: 0x400 } as const;
export const SNAPSHOT_DELETE = { CHILDREN: 0x1, METADATA_ONLY: 0x2 } as const;
export const CHECKPOINT_CREATE = { REDEFINE: 0x1, QUIESCE: 0x2, REDEFINE_VALIDATE: 0x4 /* 6.10 */ } as const;
export const CHECKPOINT_LIST = { TOPOLOGICAL: 0x2 } as const;
export const CHECKPOINT_DELETE = { CHILDREN: 0x1, METADATA_ONLY: 0x2 } as const;
export const CHECKPOINT_XML = { SECURE: 0x1, NO_DOMAIN: 0x2, SIZE: 0x4 } as const;
export const BACKUP_BEGIN = { REUSE_EXTERNAL: 0x1 } as const;
export const JOB_STATS = { COMPLETED: 0x1, KEEP_COMPLETED: 0x2 } as const;
export const BLOCK_COMMIT = { SHALLOW: 0x1, DELETE: 0x2, ACTIVE: 0x4, BANDWIDTH_BYTES: 0x10 } as const;
export const BLOCK_PULL = { BANDWIDTH_BYTES: 0x40 } as const;
export const BLOCK_JOB_SPEED = { BANDWIDTH_BYTES: 0x1 } as const;
export const BLOCK_JOB_ABORT = { ASYNC: 0x1, PIVOT: 0x2 } as const;
export const BLOCK_JOB_INFO = { BANDWIDTH_BYTES: 0x1 } as const;
export const BLOCK_RESIZE = { BYTES: 0x1 } as const;
export const MONITOR_COMMAND = { HMP: 0x1 } as const;
export const AFFECT = { LIVE: 0x1, CONFIG: 0x2 } as const;
export const METADATA = { DESCRIPTION: 0, TITLE: 1, ELEMENT: 2 } as const;
/** Without it the daemon leaves string members out of typed parameters. */
export const TYPED_PARAM_STRING_OKAY = 0x4;
export const GUEST_INFO = {
  users: 0x1,
  os: 0x2,
  timezone: 0x4,
  hostname: 0x8,
  filesystem: 0x10,
  disks: 0x20, // 7.0
  interfaces: 0x40, // 7.10
} as const;

/** The names of libvirt's numbers, by position. */
export const DOMAIN_STATES = [
  'nostate',
  'running',
  'blocked',
  'paused',
  'shutdown',
  'shutoff',
  'crashed',
  'pmsuspended',
] as const;
export const JOB_TYPES = ['none', 'bounded', 'unbounded', 'completed', 'failed', 'cancelled'] as const;
export const JOB_OPERATIONS = [
  'unknown',
  'start',
  'save',
  'restore',
  'migration-in',
  'migration-out',
  'snapshot',
  'snapshot-revert',
  'dump',
  'backup',
  'snapshot-delete',
] as const;
export const BLOCK_JOB_TYPES = ['unknown', 'pull', 'copy', 'commit', 'active-commit', 'backup'] as const;
export const BLOCK_JOB_STATUSES = ['completed', 'failed', 'canceled', 'ready'] as const;
export const LIFECYCLE_EVENTS = [
  'defined',
  'undefined',
  'started',
  'suspended',
  'resumed',
  'stopped',
  'shutdown',
  'pmsuspended',
  'crashed',
] as const;
export const IO_ERROR_ACTIONS = ['none', 'pause', 'report'] as const;

/** The name of a number; `unknown` for one that a newer libvirt brought. */
export const nameOf = <T extends string>(names: readonly T[], number: number): T | 'unknown' =>
  names[number] ?? 'unknown';
