import { WorkflowExecutionAlreadyStartedError } from '@temporalio/common';
import { ParentClosePolicy, patched, startChild } from '@temporalio/workflow';
import { CONTROL_QUEUE } from '../schemas/queues.ts';
import { reclaimOrphansRequest, type ReclaimOrphansRequest } from '../schemas/requests.ts';
import { controlActivities, hostProbes, hostUndo } from './activity-proxies.ts';
import { causeOf } from './failure-cause.ts';
import { lockPublished } from './lock-published.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { reclaimCheckpoints, reclaimDeletes, reclaimFiles, reclaimLocks } from './reclaim-stored.ts';

export interface ReclaimedOrphans {
  /** What was found without a running owner, in words; undone unless it was a dry run. */
  found: string[];
  /** What could not be looked at or undone; the next run tries again. */
  problems: string[];
  dryRun: boolean;
}

/** Undoes what belongs to no running operation: a terminated run's job, checkpoint, drafts, scratch files and lease. */
export async function reclaimOrphans(request: ReclaimOrphansRequest): Promise<ReclaimedOrphans> {
  const asked = parseRequest(reclaimOrphansRequest, 'reclaimOrphans', request);
  const control = controlActivities();
  const view = new OperationView('reclaimOrphans', '');
  const dryRun = asked.dryRun ?? false;
  const hosts = await control.hostsToSearch(asked.host ?? null);
  const listed = await listLeftovers(hosts, view);
  view.step('comparing the catalog with the runs that go on'); // after the listing: what begins now is not in it
  const orphans = await control.findOrphans(asked);
  const { backups, leases, consolidations = [], rewrites = [], copies = [], keep, graceSeconds } = orphans;
  const result: ReclaimedOrphans = {
    found: [...backups, ...leases, ...consolidations, ...rewrites, ...copies].map(({ description }) => description),
    problems: [],
    dryRun,
  };
  const silent: string[] = [];
  for (const { host, ids, problem } of listed) {
    const taken = backups.filter((backup) => backup.host === host).map(({ backupId }) => backupId);
    const restores = leases.filter(({ restore }) => restore?.host === host).map(({ operationId }) => operationId);
    if (problem !== null) {
      silent.push(host);
      result.problems.push(`host ${host}: ${problem}`);
      continue;
    }
    try {
      if (ids.some((id) => !keep.includes(id))) {
        view.step(`undoing leftovers on ${host}`);
        // Any host may have worked on rewrites and copies.
        const orphaned = [...taken, ...restores, ...[...rewrites, ...copies].map(({ operationId }) => operationId)];
        const what = { listed: ids, keep, orphaned, graceSeconds, dryRun };
        const { found, published } = await hostUndo(host).reclaimLeftovers(what);
        result.found.push(...found.map((leftover) => `${host}: ${leftover}`));
        for (const one of published) {
          const { plan, completed } = one;
          await control.relistBackup(plan, completed); // ended by force between manifest and commit: it exists
          await hostUndo(host).forgetBackup(plan.backupId);
          const problem = await lockPublished(one);
          if (problem !== null) result.problems.push(problem);
        }
      }
    } catch (error) {
      result.problems.push(`host ${host}: ${causeOf(error)}`);
      silent.push(host);
      continue;
    }
    if (dryRun) continue;
    for (const { backupId } of backups.filter((backup) => backup.host === host)) {
      await control.recordFailure(backupId, 'Terminated', 'its run was ended by force; what it left was undone', []);
    }
  }
  if (patched('ended-validations')) result.found.push(...(await control.endedValidations(!dryRun)));
  if (!dryRun) for (const one of consolidations) await goOn(one, result);
  if (!dryRun) for (const { backupId, operationId } of rewrites) await control.rewriteEnded(backupId, operationId);
  for (const { backupId, repository, operationId } of dryRun ? [] : copies) {
    await control.copyEnded(backupId, repository, operationId);
  }
  for (const { operationId, restore } of dryRun ? [] : leases) {
    if (restore !== undefined) {
      // Its VM's disks may be swapped in part: nobody else should have it before that is undone.
      if (silent.includes(restore.host) || (asked.host ?? restore.host) !== restore.host) continue;
      if (restore.vmUuid !== null) await control.restoreReclaimed(restore.vmUuid);
    }
    await control.releaseAdmission(operationId);
  }
  if (asked.quick !== true) {
    const how = { graceSeconds, dryRun };
    await reclaimDeletes(how, result, view);
    await reclaimCheckpoints(hosts, how, result, view);
    if (asked.host === undefined) await reclaimFiles(how, result, view);
    if (asked.host === undefined && patched('locks-made-up-for')) await reclaimLocks(how, result, view);
  }
  view.ended('done', `${result.found.length} found, ${result.problems.length} problems`);
  return result;
}

/** What lies on each host; a host that does not answer is a problem, and nothing of it is touched. */
async function listLeftovers(
  hosts: string[],
  view: OperationView,
): Promise<{ host: string; ids: string[]; problem: string | null }[]> {
  const listed: { host: string; ids: string[]; problem: string | null }[] = [];
  for (const host of hosts) {
    view.step(`looking for leftovers on ${host}`);
    listed.push(
      await hostProbes(host)
        .listLeftovers()
        .then(
          (ids) => ({ host, ids, problem: null }),
          (error: unknown) => ({ host, ids: [], problem: causeOf(error) }),
        ),
    );
  }
  return listed;
}

/** A VM that depends on a backup is never forgotten: its consolidation begins again where it was. */
async function goOn({ vmUuid, jobId }: { vmUuid: string; jobId: string }, result: ReclaimedOrphans): Promise<void> {
  try {
    await startChild('consolidateDisks', {
      workflowId: jobId,
      taskQueue: CONTROL_QUEUE,
      args: [{ vm: vmUuid }],
      parentClosePolicy: ParentClosePolicy.ABANDON,
    });
  } catch (error) {
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) result.problems.push(`${jobId}: ${causeOf(error)}`);
  }
}
