import { CancellationScope, ContinueAsNew, continueAsNew, isCancellation, uuid4 } from '@temporalio/workflow';
import type { CheckedFile, CheckedRepository, CheckPlan, CheckProgress, FileToCheck } from '../schemas/check.ts';
import { checkRepositoryRequest, type CheckRepositoryRequest } from '../schemas/requests.ts';
import { controlActivities, hostChecks } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { causeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { hostWithRepository } from './repository-host.ts';
import { thisRun } from './this-run.ts';

/** A history stays well below Temporal's limits with so many answers of a host. */
const BATCHES_PER_HISTORY = 400;
/** So many damaged files are told one by one; all are marked. */
const TOLD_AT_MOST = 200;

/**
 * Reads stored files and compares every byte with its hash, those first that were compared longest ago. A damaged file marks
 * its backup and all that are built on it; a mark goes when the bytes are right again.
 */
export async function checkRepository(request: CheckRepositoryRequest): Promise<CheckedRepository> {
  const asked = parseRequest(checkRepositoryRequest, 'checkRepository', request);
  const control = controlActivities();
  const view = new OperationView('checkRepository', asked.vm ?? '');
  try {
    const startedAt = new Date().toISOString(); // the workflow's clock
    const planned = await control.planCheck(uuid4(), asked, startedAt);
    const plan = asked.goesOn?.plan ?? planned.plan;
    let progress: CheckProgress = asked.goesOn?.progress ?? {
      place: null,
      files: 0,
      bytes: 0,
      damagedCount: 0,
      damaged: [],
    };
    view.about({ repository: plan.repository.name });
    view.step('looking for a host that has the repository');
    const host = await hostWithRepository(planned.hosts, plan.repository);
    view.about({ host });
    for (let batches = 0; progress.files < plan.files; batches += 1) {
      if (batches === BATCHES_PER_HISTORY) {
        return await continueAsNew<typeof checkRepository>({ ...asked, goesOn: { plan, progress } });
      }
      const files = await control.filesToCheck(plan, progress.place, plan.files - progress.files);
      const last = files.at(-1);
      if (last === undefined) break; // fewer than there were: some were deleted meanwhile
      view.step(`comparing stored bytes: ${progress.files} of ${plan.files} files${damagedText(progress)}`);
      const checked = await hostChecks(host, planned.heartbeatSeconds).verifyStored(plan, files, progress.bytes);
      await control.noteChecked(
        plan,
        checked.filter(({ outcome }) => outcome === 'right'),
      );
      const damaged: CheckedFile[] = [];
      for (const suspect of checked.filter(({ outcome }) => outcome === 'damaged')) {
        damaged.push(...(await onceMore(plan, host, planned.heartbeatSeconds, suspect.file, view)));
      }
      progress = advanced(progress, files, damaged);
    }
    view.step('taking marks away that hold no more');
    const result = await control.endCheck(plan, progress);
    view.ended(result.damagedFiles === 0 ? 'done' : 'failed', `${result.files} files, ${result.damagedFiles} damaged`);
    return result;
  } catch (error) {
    if (error instanceof ContinueAsNew) throw error;
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

/**
 * A file may have been deleted or swapped while it was read: it counts as damaged only if it is when nobody may do so.
 * Gives what is damaged, noted and marked.
 */
async function onceMore(
  plan: CheckPlan,
  host: string,
  heartbeatSeconds: number,
  file: FileToCheck,
  view: OperationView,
): Promise<CheckedFile[]> {
  const control = controlActivities();
  const operationId = uuid4();
  try {
    await admitted(await control.admissionToCheck(operationId, file, thisRun()), view);
    view.step(`looking once more at ${file.file}`);
    const still = await control.stillStored(file, plan.repository.name);
    if (!still) return [];
    const checked = await hostChecks(host, heartbeatSeconds).verifyStored(plan, [file], 0);
    await control.noteChecked(plan, checked);
    return checked.filter(({ outcome }) => outcome === 'damaged');
  } finally {
    await CancellationScope.nonCancellable(() => control.releaseAdmission(operationId));
  }
}

function advanced(
  progress: CheckProgress,
  files: readonly FileToCheck[],
  damaged: readonly CheckedFile[],
): CheckProgress {
  const last = files.at(-1);
  const told = damaged.map(({ file: { backupId, vm, file }, message = '' }) => ({
    backupId,
    vm: vm.name,
    file,
    message,
  }));
  return {
    place:
      last === undefined
        ? progress.place
        : { unverifiedSince: last.unverifiedSince, backupId: last.backupId, target: last.target },
    files: progress.files + files.length,
    bytes: progress.bytes + files.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
    damagedCount: progress.damagedCount + damaged.length,
    damaged: [...progress.damaged, ...told].slice(0, TOLD_AT_MOST),
  };
}

const damagedText = ({ damagedCount }: CheckProgress): string =>
  damagedCount === 0 ? '' : `, ${damagedCount} damaged`;
