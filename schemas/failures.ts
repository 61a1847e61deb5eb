/**
 * Every failure an activity can report. Workflows branch on these names; docs/failures.md explains each and is tested
 * against this table.
 */
export const FAILURES = {
  InvalidRequest: { retryable: false },
  VmNotFound: { retryable: false },
  VmAmbiguous: { retryable: false },
  VmStateChanged: { retryable: false }, // started or stopped since the plan; the workflow plans again
  VmNotStopped: { retryable: false },
  VmNameTaken: { retryable: false },
  VmUuidTaken: { retryable: false },
  VmOnOtherHost: { retryable: false },
  VmDefinitionInvalid: { retryable: false },
  HostNotFound: { retryable: false },
  HostUnreachable: { retryable: true }, // libvirtd does not answer; it may be restarting
  HostRefused: { retryable: false }, // libvirt does not let us in, or the host is not who it should be
  HostFull: { retryable: false }, // no room for notes and scratch files; they go when the run ends
  HypervisorError: { retryable: true }, // libvirt answered with an error that none of the others names
  NbdConnectionLost: { retryable: true }, // the job goes on, only the connection broke
  HostUnsupported: { retryable: false }, // libvirt or QEMU too old for what was asked
  DomainBusy: { retryable: true }, // another job runs on the domain
  CheckpointLost: { retryable: false }, // the workflow copies the disk in full
  BackupJobLost: { retryable: false }, // QEMU or the guest ended: the frozen instant is gone
  QuiesceFailed: { retryable: false },
  SnapshotUnsupported: { retryable: false },
  MergeFailed: { retryable: true }, // the overlay stays, and the VM goes on with it
  DeltaAnomaly: { retryable: false }, // a disk's images are not as any step of ours leaves them
  ParentNotUsable: { retryable: false },
  NothingToBackUp: { retryable: false },
  BackupNotFound: { retryable: false },
  BackupNotRestorable: { retryable: false },
  QuickRestoreNotAllowed: { retryable: false },
  VmStartFailed: { retryable: false },
  NothingToConsolidate: { retryable: false },
  BackupNotDeletable: { retryable: false },
  ValidationRunning: { retryable: false },
  BackupNotCompressible: { retryable: false },
  BackupNotCopyable: { retryable: false },
  NothingToMerge: { retryable: false },
  NothingToFinish: { retryable: false },
  NotProtected: { retryable: false },
  NoRetention: { retryable: false },
  RepositoryNotFound: { retryable: false },
  RepositoryRequired: { retryable: false },
  RepositoryUnavailable: { retryable: true }, // gone, read-only, or an I/O error; it may come back
  RepositoryFull: { retryable: false },
  RepositoryReadOnly: { retryable: false },
  RepositoryForeign: { retryable: false },
  RepositoryAccessDenied: { retryable: false }, // the store does not take the host's credentials
  RepositoryOwned: { retryable: false }, // another installation writes there
  HostClockWrong: { retryable: true }, // the store refuses requests of another time
  BackupLocked: { retryable: false }, // the store keeps it until a date
  EncryptionMismatch: { retryable: false }, // catalog and repository do not agree on encryption
  KeyMissing: { retryable: false }, // no identity where one is needed
  KeyWrong: { retryable: false }, // an identity that does not open the repository
  GatewayFailed: { retryable: true },
  RepositoryNotOnHost: { retryable: false }, // another host than the backup's does not see it
  IntegrityMismatch: { retryable: false },
  BackupFileMissing: { retryable: false },
  DiskMismatch: { retryable: false },
  DiskNotAttachable: { retryable: false }, // libvirt refuses the disk, or the VM has no place for it
  DestinationExists: { retryable: false },
  DestinationFull: { retryable: false },
  FilesToolMissing: { retryable: false }, // libguestfs, or a kernel for its small VM
  FilesNotReadable: { retryable: false }, // libguestfs cannot read a file system of the backup
  FileSystemNotFound: { retryable: false },
  FileNotFound: { retryable: false },
  TimeLimitReached: { retryable: false },
  OfferingNotFound: { retryable: false },
  OfferingNotKeepable: { retryable: false },
  OfferingInUse: { retryable: false },
  TemporalUnreachable: { retryable: true },
  JobNotFound: { retryable: false },
  ScheduleNotFound: { retryable: false },
  WindowClosed: { retryable: false },
  ReportNotDelivered: { retryable: true }, // no answer, or one that may be better later
  ReportRefused: { retryable: false },
} as const satisfies Record<string, { retryable: boolean }>;

export type FailureType = keyof typeof FAILURES;

/** An error of the domain, thrown below Temporal; the interceptor in workers/ turns it into an ApplicationFailure. */
export class HoldfastError extends Error {
  override readonly name = 'HoldfastError';
  readonly type: FailureType;
  constructor(type: FailureType, message: string, options?: ErrorOptions) {
    super(message, options);
    this.type = type;
  }
}
