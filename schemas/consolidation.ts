import { z } from 'zod';
import { preparedRestore, restorePlan } from './restore-plan.ts';

/**
 * `starting`: the VM is about to boot on the backup. `pulling`: it has, and its disks depend on the backup. `stopped`: so
 * they do, and a person stopped the pull. `damaged`: so they do, and what they are pulled from is not what was stored.
 */
export const consolidationState = z.enum(['starting', 'pulling', 'stopped', 'damaged']);
export type ConsolidationState = z.infer<typeof consolidationState>;

/** A VM whose disks depend on a backup, from before it boots until they do not any more. */
export const consolidation = z.object({
  /** That of its restore. */
  id: z.string(),
  /** The VM that runs on the backup; with `--as` not the one that was backed up. */
  vm: z.object({ uuid: z.string(), name: z.string() }),
  backupId: z.string(),
  host: z.string(),
  repository: z.string(),
  state: consolidationState,
  /** Null = as fast as it goes. */
  rateBytesPerSecond: z.int().positive().nullable(),
  plan: restorePlan,
  prepared: preparedRestore,
  /** What was found wrong with the backup. */
  damage: z.string().nullable(),
  /** ISO 8601, when every byte of the backup had been compared with its hash; null until then. */
  verifiedAt: z.string().nullable(),
  workflowId: z.string(),
  runId: z.string(),
  /** ISO 8601. */
  since: z.string(),
});
export type Consolidation = z.infer<typeof consolidation>;

/** What a look at the disks of a quickly restored VM found. */
export interface PullState {
  /** `done`: no disk depends on the backup. `gone`: the host has no such VM. */
  state: 'done' | 'pulling' | 'waiting' | 'off' | 'gone';
  /** For `waiting`: for what. */
  waitingFor: string | null;
  /** The guest was paused by a read or write that failed, and goes on now. */
  resumed: boolean;
  /** The guest stands still because of a read or write that failed. Former workers do not say so. */
  paused?: boolean;
  /** The pull ended with an error of its own though the repository answers. */
  pullFailed: string | null;
  disks: { target: string; done: boolean; pulledBytes: number; totalBytes: number }[];
}

/** What of it is told as soon as it is otherwise. */
export type ToldState = Pick<PullState, 'state' | 'paused'>;

/** What `consolidateDisks` ends with. */
export interface ConsolidatedVm {
  vm: { uuid: string; name: string };
  backupId: string;
  disks: { target: string; path: string; verified: boolean }[];
}

/** Id of the job: the same for every run of one consolidation, so that there is never more than one. */
export const consolidationJob = ({ vm, id }: Pick<Consolidation, 'vm' | 'id'>): string =>
  `consolidateDisks-${vm.name}-${id.slice(0, 8)}`;

/** As command line and API show it. */
export const shownConsolidation = consolidation
  .pick({ vm: true, backupId: true, host: true, state: true, damage: true, verifiedAt: true, since: true })
  .extend({
    /** 0 = as fast as it goes. */
    rateMBps: z.number(),
    jobId: z.string(),
  });

export const showConsolidation = (one: Consolidation): z.infer<typeof shownConsolidation> => ({
  vm: one.vm,
  backupId: one.backupId,
  host: one.host,
  state: one.state,
  rateMBps: one.rateBytesPerSecond === null ? 0 : one.rateBytesPerSecond / 1e6,
  damage: one.damage,
  verifiedAt: one.verifiedAt,
  since: one.since,
  jobId: consolidationJob(one),
});
