import { consolidationJob } from '../../schemas/consolidation.ts';
import type { ReclaimOrphansRequest } from '../../schemas/requests.ts';
import type { ControlDependencies } from './dependencies.ts';

/** What belongs to no run known at all may belong to one that has only begun. */
const DEFAULT_GRACE_SECONDS = 3600;

export interface Orphans {
  /** Backups that are noted as being taken though their run has ended. */
  backups: { backupId: string; host: string; vmUuid: string; description: string }[];
  /** Admissions of runs that have ended. */
  leases: {
    operationId: string;
    description: string;
    /** Of a restore: where it may have left something, and the VM it was changing. */
    restore?: { host: string; vmUuid: string | null };
  }[];
  /** VMs that depend on a backup since a quick restore, and nobody makes them independent. Runs of former versions know none. */
  consolidations?: { vmUuid: string; jobId: string; description: string }[];
  /** Rewritings of stored backups that are noted as going on though their run has ended. */
  rewrites?: { operationId: string; backupId: string; host: string; description: string }[];
  /** Copies of backups that are noted as being made though their run has ended. */
  copies?: { operationId: string; backupId: string; repository: string; description: string }[];
  /** Operations that go on: nothing of theirs is touched. */
  keep: string[];
  graceSeconds: number;
}

export const createFindOrphans = ({ catalog, runs }: ControlDependencies) => ({
  /** The host asked for, or all. */
  async hostsToSearch(asked: string | null): Promise<string[]> {
    const hosts = (await catalog.hosts.list()).map(({ name }) => name);
    return asked === null ? hosts : hosts.filter((name) => name === asked);
  },

  /** Compares what the catalog notes as going on with the runs that Temporal says go on. */
  async findOrphans(asked: ReclaimOrphansRequest): Promise<Orphans> {
    const keep: string[] = [];
    const leases: Orphans['leases'] = [];
    const consolidations: NonNullable<Orphans['consolidations']> = [];
    for (const one of await catalog.consolidations.list()) {
      keep.push(one.id); // its former disks and its admission stay, whatever became of its run
      if (one.state === 'stopped' || one.state === 'damaged') continue;
      if (await runs.isRunning(one.workflowId, one.runId)) continue;
      consolidations.push({
        vmUuid: one.vm.uuid,
        jobId: consolidationJob(one),
        description: `VM ${one.vm.name} runs on backup ${one.backupId}, and the run that would change that has ended`,
      });
    }
    for (const lease of await catalog.admissions.list()) {
      if (keep.includes(lease.operationId)) continue;
      if (await runs.isRunning(lease.workflowId, lease.runId)) keep.push(lease.operationId);
      else {
        const { operationId, host, vmUuid, restoresBackupId } = lease;
        const description = `admission of ended run ${lease.workflowId}`;
        const restore = restoresBackupId == null || host === null ? {} : { restore: { host, vmUuid } };
        leases.push({ operationId, description, ...restore });
      }
    }
    const backups: Orphans['backups'] = [];
    for (const { backup, workflowId, runId } of await catalog.backups.unfinished()) {
      if (asked.host !== undefined && backup.host !== asked.host) continue;
      if (await runs.isRunning(workflowId, runId)) {
        keep.push(backup.id);
        continue;
      }
      backups.push({
        backupId: backup.id,
        host: backup.host,
        vmUuid: backup.vm.uuid,
        description: `backup ${backup.id} of VM ${backup.vm.name}: its run ${workflowId} has ended`,
      });
    }
    const rewrites: NonNullable<Orphans['rewrites']> = [];
    for (const { id, backupId, vmName, host, operation, workflowId, runId } of await catalog.rewrites.running()) {
      if (await runs.isRunning(workflowId, runId)) keep.push(id);
      else {
        const description = `${operation} of backup ${backupId} of VM ${vmName}: its run ${workflowId} has ended`;
        rewrites.push({ operationId: id, backupId, host, description });
      }
    }
    const copies: NonNullable<Orphans['copies']> = [];
    for (const { operationId, backupId, repository, vmName, ...run } of await catalog.copies.running()) {
      if (await runs.isRunning(run.workflowId, run.runId)) keep.push(operationId);
      else {
        const description = `copy of backup ${backupId} of VM ${vmName} to ${repository}: its run ${run.workflowId} has ended`;
        copies.push({ operationId, backupId, repository, description });
      }
    }
    return {
      backups,
      leases,
      consolidations,
      rewrites,
      copies,
      keep,
      graceSeconds: asked.graceSeconds ?? DEFAULT_GRACE_SECONDS,
    };
  },
});
