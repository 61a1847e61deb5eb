import type { BackupDiskRecord } from '../../schemas/catalog.ts';
import type { BackupCopy, CopyState } from '../../schemas/copy.ts';
import type { BackupType } from '../../schemas/states.ts';

/** A backup's mirror in another repository, with what later steps need of it. */
export interface CopyRecord extends BackupCopy {
  backupId: string;
  vmUuid: string;
  /** As its own manifest says: a merge of the original leaves the copy what it was. */
  type: BackupType;
  parentId: string | null;
  disks: BackupDiskRecord[];
}

export interface CopyFilter {
  /** UUID. */
  vm?: string;
  /** UUIDs. */
  vms?: string[];
  repository?: string;
  backupIds?: string[];
  states?: CopyState[];
}

/** The run that copies a backup. */
export interface CopyingRun {
  operationId: string;
  workflowId: string;
  runId: string;
}

/** What a copy's manifest says. */
export type CompletedCopy = Pick<CopyRecord, 'state' | 'type' | 'parentId' | 'disks'> & { copiedAt: string };

export interface CopyQueries {
  /** By backup, newest first, then by the repository's name. */
  list(filter?: CopyFilter): Promise<CopyRecord[]>;
  /** VMs whose backups have copies with files there. */
  vmsIn(repository: string): Promise<string[]>;
  find(backupId: string, repository: string): Promise<CopyRecord | undefined>;
  /**
   * Notes that the operation copies the backup there, as `Copying`. Again: no change. Gives the operation that does so
   * already, `there` when a copy's files are in the repository, or null.
   */
  begin(copy: { backupId: string; repository: string } & CopyingRun): Promise<CopyingRun | 'there' | null>;
  /** The copy is there. Again, or of another operation: no change. */
  complete(backupId: string, repository: string, operationId: string, completed: CompletedCopy): Promise<void>;
  /** Nothing of the copy is there: `CopyError` with a failure, else forgotten. Again, or of another operation: no change. */
  end(
    backupId: string,
    repository: string,
    operationId: string,
    failure: { type: string; message: string } | null,
  ): Promise<void>;
  /** Notes a copy that was found in its repository; one that is being written is left alone. */
  note(found: { backupId: string; repository: string } & CompletedCopy): Promise<void>;
  setState(backupId: string, repository: string, state: CopyState, expected?: CopyState[]): Promise<boolean>;
  /** Says why copies cannot be relied on; null takes it back. */
  setDamage(repository: string, backupIds: string[], damage: string | null): Promise<void>;
  /** Copies that are noted as being written. */
  running(): Promise<({ backupId: string; repository: string; vmName: string } & CopyingRun)[]>;
}
