import type { AdmissionRequest, BackupDiskRecord } from '../../schemas/catalog.ts';
import type { Consolidation } from '../../schemas/consolidation.ts';
import type { RewriteOperation } from '../../schemas/rewrite-plan.ts';
import type { BackupType, CompressionState } from '../../schemas/states.ts';
import type { ProvenBoot, ValidationResult } from '../../schemas/validation.ts';

export type AdmissionAnswer =
  | { granted: true }
  /** `waitingFor` is a sentence for a person; `blockers` are the workflows that hold what is missing. */
  | { granted: false; waitingFor: string; blockers: { workflowId: string; runId: string; operationId: string }[] };

/** An operation that was granted what it asked for by somebody else's release. */
export interface Granted {
  operationId: string;
  workflowId: string;
  runId: string;
}

export interface AdmissionQueries {
  /**
   * Asks, or asks again: repeating it keeps the place in the queue. Grants by priority, then fairly among tenants
   * (who holds least goes first), then by age; a waiting operation that cannot run does not hold up others that can,
   * except that nobody of lower rank overtakes it for a thing it waits for.
   */
  request(request: AdmissionRequest): Promise<AdmissionAnswer>;
  /**
   * What was granted goes on under another run, without a moment in which it is nobody's: the VM and the chain; the slots of
   * host and repository are given back. Gives who was granted something thereby; undefined when nothing is held. Repeatable.
   */
  handOver(
    operationId: string,
    to: { operation: string; workflowId: string; runId: string; vmUuid: string },
  ): Promise<Granted[] | undefined>;
  /** Gives everything back and grants to whom it helps. Again: nothing. */
  release(operationId: string): Promise<Granted[]>;
  /** Backups that are being restored now: each as long as one restore of it is admitted. */
  restoring(): Promise<Set<string>>;
  list(): Promise<
    (AdmissionRequest & { state: 'waiting' | 'granted'; requestedAt: string; waitingFor: string | null })[]
  >;
}

export interface ConsolidationQueries {
  /** Oldest first. */
  list(): Promise<Consolidation[]>;
  find(id: string): Promise<Consolidation | undefined>;
  /** By UUID or name of the VM that runs on the backup; of namesakes all. */
  findByVm(nameOrUuid: string): Promise<Consolidation[]>;
  /** Again with the same id: no change. A VM has one at most. */
  create(consolidation: Consolidation): Promise<void>;
  update(
    id: string,
    changes: Partial<Pick<Consolidation, 'state' | 'rateBytesPerSecond' | 'damage' | 'verifiedAt'>> & {
      run?: { workflowId: string; runId: string };
    },
  ): Promise<void>;
  remove(id: string): Promise<void>;
}

/** The run that validates a backup. */
export interface ValidatingRun {
  workflowId: string;
  runId: string;
}

export interface ValidationQueries {
  /** Marks the backup as `Validating` by this run; again: no change. Gives the run that validates it already, or null. */
  begin(id: string, run: ValidatingRun): Promise<ValidatingRun | null>;
  /** Gives a backup that this run was validating the state it had before; others are left alone. */
  restore(id: string, run: ValidatingRun): Promise<void>;
  /** Notes what a validation found. Again: no change. */
  complete(id: string, result: ValidationResult): Promise<void>;
  /** Backups that are marked as being validated. */
  running(): Promise<(ValidatingRun & { backupId: string; vmName: string })[]>;
  /** What the last validation found; null when there was none. */
  resultOf(id: string): Promise<ValidationResult | null>;
  /** When the VM last proved to boot, from any of its backups; null if never. */
  lastBoot(vmUuid: string): Promise<ProvenBoot | null>;
  /** Says why backups cannot be relied on; null takes it back. */
  setDamage(ids: string[], damage: string | null): Promise<void>;
}

/** The operation that writes the files of a backup anew. */
export interface RewritingRun {
  id: string;
  operation: RewriteOperation;
  workflowId: string;
  runId: string;
}

export interface RewriteQueries {
  /**
   * Notes that the files of a backup are written anew by this operation; a compression makes the backup `Compressing`. Again: no
   * change. Gives the operation that does so already, or null.
   */
  begin(backupId: string, run: RewritingRun): Promise<RewritingRun | null>;
  /** A compressing backup becomes `FinalizingCompression`. False when the operation is not noted with it any more. */
  finalize(backupId: string, operationId: string): Promise<boolean>;
  /** The files are what the manifest says now, and nobody writes them anew any more. Again: no change. */
  complete(backupId: string, operationId: string, rewritten: RewrittenBackup): Promise<void>;
  /**
   * Nobody writes them anew any more, and they are what they were. With a failure, a compressing backup becomes
   * `CompressionError`, else `None`. Again, or of another operation: no change.
   */
  end(backupId: string, operationId: string, failure: string | null): Promise<void>;
  /** Backups whose files are noted as being written anew. */
  running(): Promise<(RewritingRun & { backupId: string; vmName: string; host: string })[]>;
}

/** What a manifest says after its files were written anew. */
export interface RewrittenBackup {
  type: BackupType;
  parentId: string | null;
  codec: 'zstd' | 'none';
  /** The state a compression ends in; null leaves it. */
  compression: CompressionState | null;
  disks: BackupDiskRecord[];
}
