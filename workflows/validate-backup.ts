import { ApplicationFailure, CancellationScope, isCancellation, sleep, uuid4 } from '@temporalio/workflow';
import type { Backup } from '../schemas/backup.ts';
import type { ValidationStep } from '../schemas/states.ts';
import { validateBackupRequest, type ValidateBackupRequest } from '../schemas/requests.ts';
import {
  reasonOf,
  stateOf,
  type HashProblem,
  type StepResult,
  type ValidationPlan,
  type ValidationResult,
} from '../schemas/validation.ts';
import { controlActivities, hostActivities, hostProbes, hostUndo, hostValidations } from './activity-proxies.ts';
import { admitted } from './admitted.ts';
import { Compensations } from './compensations.ts';
import { causeOf, failureTypeOf } from './failure-cause.ts';
import { OperationView } from './operation-view.ts';
import { parseRequest } from './parse-request.ts';
import { thisRun } from './this-run.ts';

export type ValidatedBackup = Backup & { validationResult: ValidationResult };

/** What has been found so far. */
interface Findings {
  steps: StepResult[];
  problems: HashProblem[];
  bootMs: number | null;
  host: string | null;
  screenshot: string | null;
}

/** How long hosts may be silent, or without the repository, before the validation is given up. */
const HOST_WAIT_SECONDS = 1800;
/** How long one waits for memory: a night. */
const ROOM_WAIT_SECONDS = 28_800;
const ASK_AGAIN_SECONDS = [5, 10, 20, 30, 60];

/** Proves that a backup can be read and boots; what it finds is kept with the backup. Only what prevents a try is a failure. */
export async function validateBackup(request: ValidateBackupRequest): Promise<ValidatedBackup> {
  const asked = parseRequest(validateBackupRequest, 'validateBackup', request);
  const control = controlActivities();
  const validationId = uuid4();
  const view = new OperationView('validateBackup', asked.backupId);
  const compensations = new Compensations();
  try {
    view.step('looking for the backup');
    const { plan, admission, hosts, heartbeatSeconds } = await control.planValidation(validationId, asked, thisRun());
    view.about({ vm: plan.vm, repository: plan.repository.name, backupId: plan.backupId });
    view.step('asking for admission');
    compensations.add('release admission', () => control.releaseAdmission(validationId));
    await admitted(admission, view);
    compensations.add('restore the validation state', () => control.restoreValidation(plan));
    await control.beginValidation(plan);
    const found: Findings = { steps: [], problems: [], bootMs: null, host: null, screenshot: null };
    await tryAll(plan, hosts, heartbeatSeconds, found, compensations, view);
    return await CancellationScope.nonCancellable(() => conclude(plan, found, compensations, view));
  } catch (error) {
    view.step(isCancellation(error) ? 'cancelled, undoing' : 'failed, undoing');
    await compensations.run();
    view.ended(isCancellation(error) ? 'cancelled' : 'failed', causeOf(error));
    throw error;
  }
}

/** Runs every step; what cannot be tried is a finding too, so that only a cancellation leaves here. */
async function tryAll(
  plan: ValidationPlan,
  hosts: string[],
  heartbeatSeconds: number,
  found: Findings,
  compensations: Compensations,
  view: OperationView,
): Promise<void> {
  try {
    if (plan.steps.includes('hash')) {
      const host = await hostFor(plan, hosts, { room: false }, view);
      await hash(plan, host, heartbeatSeconds, found, view);
    }
    if (found.problems.length > 0)
      skipRest(plan, found, 'the stored bytes are not right, so nothing was booted from them');
    else if (plan.steps.some((step) => step !== 'hash'))
      await boot(plan, hosts, heartbeatSeconds, found, compensations, view);
  } catch (error) {
    if (isCancellation(error)) throw error;
    view.note(causeOf(error));
    for (const step of stepsLeft(plan, found)) {
      found.steps.push({ step, result: 'unable', detail: causeOf(error), durationMs: 0 });
    }
  }
}

const stepsLeft = (plan: ValidationPlan, found: Findings): ValidationStep[] =>
  plan.steps.filter((step) => !found.steps.some((done) => done.step === step));

function skipRest(plan: ValidationPlan, found: Findings, detail: string): void {
  for (const step of stepsLeft(plan, found)) found.steps.push({ step, result: 'skipped', detail, durationMs: 0 });
}

/** The first host that answers, can read the repository and, where a VM is booted, has room. Waits for one, within a bound. */
async function hostFor(
  plan: ValidationPlan,
  hosts: string[],
  { room }: { room: boolean },
  view: OperationView,
): Promise<string> {
  view.step('looking for a host');
  const startedMs = Date.now();
  for (let round = 0; ; round += 1) {
    const silent: string[] = [];
    const full: string[] = [];
    let mayFit = false;
    for (const host of hosts) {
      try {
        const { neededBytes, freeBytes, totalBytes } = await hostProbes(host).validationRoom(plan);
        if (!room || neededBytes <= freeBytes) return host;
        mayFit ||= neededBytes <= totalBytes;
        full.push(`${host}: needs ${gibText(neededBytes)}, ${gibText(freeBytes)} of ${gibText(totalBytes)} are free`);
      } catch (error) {
        if (isCancellation(error)) throw error;
        const isSilent = failureTypeOf(error) === 'HostUnreachable';
        silent.push(`${host}: ${isSilent ? 'its worker does not answer' : causeOf(error)}`);
      }
    }
    const waitsFor =
      full.length > 0
        ? `room on ${[...full, ...silent].join('; ')}`
        : `a host that can read repository ${plan.repository.name}: ${silent.join('; ')}`;
    const waitSeconds = mayFit ? ROOM_WAIT_SECONDS : HOST_WAIT_SECONDS;
    const isHopeless = full.length === hosts.length && !mayFit;
    if (isHopeless || Date.now() - startedMs > waitSeconds * 1000) {
      throw ApplicationFailure.create({
        type: 'HostUnreachable',
        nonRetryable: true,
        message: `there was no ${waitsFor.replace(/^a /, '')}`,
      });
    }
    view.waitingFor(`waiting for ${waitsFor}`);
    await sleep((ASK_AGAIN_SECONDS[Math.min(round, ASK_AGAIN_SECONDS.length - 1)] ?? 60) * 1000);
  }
}

/** Boots a throw-away VM where there is room; somebody may be quicker to take it, then the search begins anew. */
async function boot(
  plan: ValidationPlan,
  hosts: string[],
  heartbeatSeconds: number,
  found: Findings,
  compensations: Compensations,
  view: OperationView,
): Promise<void> {
  for (let round = 0; ; round += 1) {
    const host = await hostFor(plan, hosts, { room: true }, view);
    found.host = host;
    view.about({ host });
    view.step(`booting a throw-away VM on ${host}`);
    compensations.add('end the throw-away VM', () =>
      hostUndo(host).endThrowAwayVm({ validationId: plan.validationId }),
    );
    const booted = await hostValidations(host, heartbeatSeconds).bootBackup(plan);
    if (booted.kind === 'tried') {
      found.steps.push(...booted.steps);
      found.bootMs = booted.bootMs;
      found.screenshot = booted.screenshot;
      return;
    }
    if (round >= 20) {
      throw ApplicationFailure.create({
        type: 'HostUnreachable',
        nonRetryable: true,
        message: `room on ${host} was taken by others ${round} times: ${gibText(booted.room.neededBytes)} are needed`,
      });
    }
    view.waitingFor(`waiting for room on ${host}: needs ${gibText(booted.room.neededBytes)}`);
    await sleep('30 seconds');
  }
}

const gibText = (bytes: number): string => `${(bytes / 1024 ** 3).toFixed(1)} GiB`;

async function hash(
  plan: ValidationPlan,
  host: string,
  heartbeatSeconds: number,
  found: Findings,
  view: OperationView,
): Promise<void> {
  found.host = host;
  view.about({ host });
  view.step('hashing every stored byte');
  const startedMs = Date.now();
  const { problems, files, verifiedBytes } = await hostValidations(host, heartbeatSeconds).hashBackup(plan);
  found.problems = problems;
  found.steps.push({
    step: 'hash',
    result: problems.length === 0 ? 'passed' : 'failed',
    detail:
      problems.length === 0
        ? `${verifiedBytes} bytes in ${files} ${files === 1 ? 'file' : 'files'} are as they were written`
        : problems.map(({ message }) => message).join('; '),
    durationMs: Date.now() - startedMs,
  });
}

/** Keeps what was found: with the backup, where it is found again without a catalog, then in the catalog. */
async function conclude(
  plan: ValidationPlan,
  found: Findings,
  compensations: Compensations,
  view: OperationView,
): Promise<ValidatedBackup> {
  const control = controlActivities();
  const { steps, bootMs, host, screenshot } = found;
  const state = stateOf(steps);
  const validatedAt = new Date().toISOString(); // the workflow's clock
  const result: ValidationResult = { state, steps, bootMs, validatedAt, host, screenshot };
  view.step('keeping the result');
  if (host !== null) {
    await hostActivities(host)
      .keepValidation(plan, result)
      .catch((error: unknown) => view.note(`the result is not in the manifest: ${causeOf(error)}`));
  }
  const backup = await control.commitValidation(plan, result, found.problems);
  await compensations.run(); // its undo leaves a result alone
  view.ended(state === 'UnableToValidate' ? 'failed' : 'done', `${state}: ${reasonOf(result)}`);
  return { ...backup, validationResult: result };
}
