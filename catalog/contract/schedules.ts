import type { OutcomeState, Schedule, ScheduleOutcome, ScheduleRun } from '../../schemas/schedule.ts';
import type { BackupType } from '../../schemas/states.ts';

export interface ScheduleRecord {
  schedule: Schedule;
  createdAt: string;
  /** Up to then it is known of every run that should have been what became of it. */
  checkedUntil: string;
}

/** What is noted of one VM's part in a run. */
export type OutcomeChange = Pick<ScheduleOutcome, 'state'> &
  Partial<Pick<ScheduleOutcome, 'reason' | 'backupId' | 'workflowId' | 'workflowRunId' | 'startedAt' | 'endedAt'>>;

export interface ScheduleQueries {
  list(): Promise<ScheduleRecord[]>;
  find(name: string): Promise<ScheduleRecord | undefined>;
  /** Adds it, or replaces its settings. */
  put(schedule: Schedule): Promise<ScheduleRecord>;
  remove(name: string): Promise<void>;
  setCheckedUntil(name: string, time: string): Promise<void>;
  /**
   * Notes a run with the VMs that are its work. Again with the same id: nothing. A run that was noted as missed and begins
   * after all is missed no more.
   */
  beginRun(run: ScheduleRun, vms: Pick<ScheduleOutcome, 'vm' | 'state' | 'reason' | 'backupId'>[]): Promise<void>;
  /** Notes a run that never began, unless one is noted for that time. Says whether it was news. */
  noteMissed(run: ScheduleRun): Promise<boolean>;
  findRun(id: string): Promise<ScheduleRun | undefined>;
  endRun(id: string, state: ScheduleRun['state'], reason: string | null, endedAt: string): Promise<void>;
  /** Newest first. */
  runs(filter?: {
    schedule?: string;
    since?: string;
    states?: ScheduleRun['state'][];
    limit?: number;
  }): Promise<ScheduleRun[]>;
  /** VMs of a run, in the order of their turns. */
  outcomes(
    runId: string,
    filter?: { states?: OutcomeState[]; after?: number; limit?: number },
  ): Promise<ScheduleOutcome[]>;
  /** What became of VMs in all runs since then, newest first. */
  outcomesSince(since: string, states: OutcomeState[]): Promise<ScheduleOutcome[]>;
  /** The last that is known of each VM of a schedule, by name. */
  lastOutcomes(schedule: string): Promise<ScheduleOutcome[]>;
  setOutcome(runId: string, position: number, change: OutcomeChange): Promise<void>;
  /** Gives all VMs whose turn has not come the same end. */
  settlePending(runId: string, state: OutcomeState, reason: string, endedAt: string): Promise<void>;
  countOutcomes(runId: string): Promise<Partial<Record<OutcomeState, number>>>;
  /** Forgets runs that were scheduled before. */
  prune(before: string): Promise<void>;
}

/** A backup with what is known for and against it. */
export interface ProvenBackup {
  id: string;
  vm: { uuid: string; name: string };
  /** ISO 8601. */
  instant: string;
  repository: string;
  storedBytes: number;
  /** It was not deleted. */
  isThere: boolean;
  /** It is there, and nothing is known against it. */
  isGood: boolean;
  /** When a throw-away VM was last tried from it, whatever came of it. */
  testedAt: string | null;
  /** When it last booted. */
  provedAt: string | null;
  /** When it was last validated, whatever came of it. */
  validatedAt: string | null;
  /** All that the last validation tried, passed. */
  isValid: boolean;
  bootMs: number | null;
}

/** A backup as a report tells of it. */
export interface TakenBackup {
  id: string;
  vm: { uuid: string; name: string };
  type: BackupType;
  /** Its instant; of one that did not come about, when it was begun. */
  at: string;
  /** It came about. */
  stored: boolean;
  storedBytes: number;
  durationMs: number;
  requestedBy: string | null;
  /** The run that took it. */
  runId: string;
  failure: { type: string; message: string } | null;
}

export interface ProofQueries {
  /** All backups that came about, newest first; of deleted ones those that were tested. */
  backups(): Promise<ProvenBackup[]>;
  /** Backups that were begun or came about since then, newest first, and those that failed. */
  takenSince(since: string): Promise<TakenBackup[]>;
}
