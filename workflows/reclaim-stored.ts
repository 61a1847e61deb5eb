import { CancellationScope, uuid4 } from '@temporalio/workflow';
import type { OwnCheckpoints } from '../activities/host/own-checkpoints.ts';
import type { StrayFile } from '../activities/host/stray-files.ts';
import { settingsOf, type RepositoryRecord } from '../schemas/repository.ts';
import { controlActivities, hostActivities, hostDeletes, hostReads } from './activity-proxies.ts';
import { deleteUnderAdmission } from './delete-under-admission.ts';
import { causeOf } from './failure-cause.ts';
import type { OperationView } from './operation-view.ts';
import { hostWithRepository } from './repository-host.ts';
import { thisRun } from './this-run.ts';

export interface Findings {
  found: string[];
  problems: string[];
}

interface How {
  graceSeconds: number;
  dryRun: boolean;
}

const VMS_AT_ONCE = 100;

/** Ends deletes that were ended by force. */
export async function reclaimDeletes({ dryRun }: How, result: Findings, view: OperationView): Promise<void> {
  view.step('looking for deletes that did not end');
  for (const { backupId, description } of await controlActivities().endedDeletes()) {
    result.found.push(description);
    if (dryRun) continue;
    await deleteUnderAdmission({ backupId, force: false, free: true }, view).catch((error: unknown) => {
      result.problems.push(`backup ${backupId}: ${causeOf(error)}`);
    });
  }
}

/** Removes files of ours that nothing names. A repository that cannot be listed, or is another one, is left alone. */
export async function reclaimFiles(how: How, result: Findings, view: OperationView): Promise<void> {
  const control = controlActivities();
  for (const { repository, hosts } of await control.repositoriesToSearch()) {
    view.step(`looking through repository ${repository.name}`);
    try {
      const host = await hostWithRepository(hosts, repository);
      await forAllVms(repository.name, (vms) => reclaimFilesOf(vms, host, repository, how, result));
    } catch (error) {
      result.problems.push(`repository ${repository.name}: ${causeOf(error)}`);
    }
  }
}

/** Locks what its repository promises to lock and is not: a run was ended between manifest and lock, or the server refused. */
export async function reclaimLocks({ dryRun }: How, result: Findings, view: OperationView): Promise<void> {
  const control = controlActivities();
  for (const { repository, hosts } of await control.repositoriesToSearch()) {
    if (settingsOf(repository).immutability === null) continue;
    view.step(`looking for locks in repository ${repository.name}`);
    try {
      const host = await hostWithRepository(hosts, repository);
      await forAllVms(repository.name, async (vms) => {
        const backups = await control.locksToHold(repository, vms);
        if (backups.length === 0) return;
        const { unlocked, problems } = await hostReads(host).lockStored(repository, backups, { dryRun });
        result.found.push(...unlocked.map((id) => `repository ${repository.name}: backup ${id} was not locked`));
        result.problems.push(...problems.map((problem) => `repository ${repository.name}: ${problem}`));
      });
    } catch (error) {
      result.problems.push(`repository ${repository.name}: ${causeOf(error)}`);
    }
  }
}

/** VMs with backups in a repository, some at a time. */
async function forAllVms(repository: string, work: (vms: string[]) => Promise<void>): Promise<void> {
  for (let after: string | null = null; ;) {
    const vms: string[] = await controlActivities().vmsToSearch(repository, after, VMS_AT_ONCE);
    const last = vms.at(-1);
    if (last === undefined) return;
    await work(vms);
    after = last;
  }
}

async function reclaimFilesOf(
  vms: string[],
  host: string,
  repository: RepositoryRecord,
  { graceSeconds, dryRun }: How,
  result: Findings,
): Promise<void> {
  const control = controlActivities();
  const { name } = repository;
  const { strays, problems } = await hostDeletes(host).findStrays(repository, vms);
  result.problems.push(
    ...problems.map(({ message }) => `repository ${name}: ${message}; nothing of that VM is removed`),
  );
  if (strays.length === 0) return;
  for (const [vmUuid, files] of Map.groupBy(
    await control.judgeStrays(name, strays, graceSeconds),
    (stray) => stray.vmUuid,
  )) {
    result.found.push(...files.map((file) => textOf(name, file)));
    if (dryRun) continue;
    await aloneWith(vmUuid, async (operationId) => {
      const still = await control.judgeStrays(name, files, graceSeconds, operationId);
      if (still.length > 0) await hostDeletes(host).removeStrays(repository, vmUuid, still);
    });
  }
}

const textOf = (repository: string, { key, sizeBytes, ageSeconds, isUpload }: StrayFile): string =>
  `repository ${repository}: ${key}, ${sizeBytes} bytes, ${ageSeconds} s old: ${isUpload ? 'an upload that nobody goes on with' : 'no manifest names it'}`;

/** Removes checkpoints of ours that the catalog does not note any more. */
export async function reclaimCheckpoints(
  hosts: string[],
  { dryRun }: How,
  result: Findings,
  view: OperationView,
): Promise<void> {
  const control = controlActivities();
  for (const host of hosts) {
    view.step(`looking for checkpoints on ${host}`);
    try {
      const { orphans, unknown } = await control.judgeCheckpoints(await hostDeletes(host).listOwnCheckpoints());
      result.problems.push(
        ...unknown.map((one) => `${checkpointsText(host, one)}: of no backup known here, left alone`),
      );
      for (const one of orphans) {
        result.found.push(`${checkpointsText(host, one)}: noted nowhere`);
        if (dryRun) continue;
        await aloneWith(one.vm.uuid, async (operationId) => {
          const still = await control.judgeCheckpoints([one], operationId);
          for (const orphan of still.orphans) await hostActivities(host).removeOwnCheckpoints(orphan);
        });
      }
    } catch (error) {
      result.problems.push(`host ${host}: ${causeOf(error)}`);
    }
  }
}

const checkpointsText = (host: string, { vm, backupIds }: OwnCheckpoints): string =>
  `${host}: checkpoints of VM ${vm.name} for ${backupIds.map((id) => `backup ${id}`).join(', ')}`;

/** Works on a VM when nobody else does; a VM that is busy has its turn with the next run. */
async function aloneWith(vmUuid: string, work: (operationId: string) => Promise<void>): Promise<void> {
  const control = controlActivities();
  const operationId = uuid4();
  try {
    const admission = await control.admissionToReclaim(operationId, vmUuid, thisRun());
    if ((await control.requestAdmission(admission)).granted) await work(operationId);
  } finally {
    await CancellationScope.nonCancellable(() => control.releaseAdmission(operationId));
  }
}
