import type { Catalog, OutcomeChange } from '../catalog/contract.ts';
import type { ScheduleOutcome } from '../schemas/schedule.ts';
import { reasonOf } from '../schemas/validation.ts';

export interface OpenRuns {
  /** Whether a run still goes on; false when it is closed or unknown. Without a run id: the newest of that id. */
  isRunning(workflowId: string, runId?: string): Promise<boolean>;
}

/**
 * Looks after what a run of a schedule could not note itself: it was ended by force, or a slow VM outlived the history it
 * was started from. What became of each VM is then told by its backup.
 */
export async function settleOutcomes(catalog: Catalog, runs: OpenRuns): Promise<void> {
  const now = new Date().toISOString();
  const ended = new Set<string>();
  const open = await catalog.schedules.runs({ states: ['running'] });
  for (const { id, workflowId } of open) {
    if (workflowId === null || (await runs.isRunning(workflowId))) continue;
    ended.add(id);
    await catalog.schedules.settlePending(id, 'missed', 'its run was ended by force before its turn', now);
  }
  for (const outcome of await catalog.schedules.outcomesSince('', ['running'])) {
    const { runId, position, vm, workflowId, workflowRunId } = outcome;
    if (workflowId === null || workflowRunId === null || (await runs.isRunning(workflowId, workflowRunId))) continue;
    const run = await catalog.schedules.findRun(runId);
    if (run?.state === 'running' && !ended.has(runId)) continue; // it is about to note it itself
    if (outcome.kind === 'rehearsal') {
      await catalog.schedules.setOutcome(runId, position, { ...(await provedBy(catalog, outcome)), endedAt: now });
      continue;
    }
    const backup = vm.uuid === null ? undefined : await backupOf(catalog, vm.uuid, workflowRunId);
    const stored = backup?.backup.instant != null;
    const failure = backup?.failure;
    await catalog.schedules.setOutcome(runId, position, {
      state: stored ? 'done' : 'failed',
      backupId: stored ? backup.backup.id : null,
      reason: stored
        ? null
        : failure == null
          ? 'its run ended without a backup'
          : `${failure.type}: ${failure.message}`,
      endedAt: now,
    });
  }
  for (const id of ended) await catalog.schedules.endRun(id, 'failed', 'the run was ended by force', now);
}

async function provedBy(catalog: Catalog, { backupId, startedAt }: ScheduleOutcome): Promise<OutcomeChange> {
  const result = backupId === null ? null : await catalog.validations.resultOf(backupId);
  if (result === null || result.validatedAt < (startedAt ?? '')) {
    return { state: 'failed', reason: 'its run ended without a result' };
  }
  if (result.state === 'Valid') return { state: 'done', reason: null };
  return { state: 'failed', reason: `${result.state}: ${reasonOf(result)}` };
}

/** The newest twenty are enough: what is looked for was just taken. */
async function backupOf(catalog: Catalog, vmUuid: string, runId: string) {
  for (const { id } of await catalog.backups.list({ vm: vmUuid, all: true, limit: 20 })) {
    const record = await catalog.backups.find(id);
    if (record?.runId === runId) return record;
  }
  return undefined;
}
