import { ApplicationFailure, CancellationScope, isCancellation, sleep, uuid4 } from '@temporalio/workflow';
import type { Backup } from '../schemas/backup.ts';
import { validateBackupRequest, type ValidateBackupRequest } from '../schemas/requests.ts';
import {
  reasonOf,
  stateOf,
  type HashProblem,
  type StepResult,
  type ValidationPlan,
  type ValidationResult,
} from '../schemas/validation.ts';
import { controlActivities, hostActivities, hostProbes, hostValidations } from './activity-proxies.ts';
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

/** How long a host that has the repository may be silent, or full, before the validation is given up. */
const HOST_WAIT_SECONDS = 1800;
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
    await tryAll(plan, hosts, heartbeatSeconds, found, view);
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
  view: OperationView,
): Promise<void> {
  try {
    const host = await hostWithRepository(plan, hosts, view);
    found.host = host;
    view.about({ host });
    if (plan.steps.includes('hash')) await hash(plan, host, heartbeatSeconds, found, view);
  } catch (error) {
    if (isCancellation(error)) throw error;
    view.note(causeOf(error));
    for (const step of plan.steps) {
      if (found.steps.some((done) => done.step === step)) continue;
      found.steps.push({ step, result: 'unable', detail: causeOf(error), durationMs: 0 });
    }
  }
}

/** The first host that answers and can read the repository. Waits for one, within a bound. */
async function hostWithRepository(plan: ValidationPlan, hosts: string[], view: OperationView): Promise<string> {
  view.step('looking for a host that has the repository');
  const startedMs = Date.now();
  for (let round = 0; ; round += 1) {
    const causes: string[] = [];
    for (const host of hosts) {
      try {
        await hostProbes(host).seesRepository({ repository: plan.repository });
        return host;
      } catch (error) {
        if (isCancellation(error)) throw error;
        causes.push(
          `${host}: ${failureTypeOf(error) === 'HostUnreachable' ? 'its worker does not answer' : causeOf(error)}`,
        );
      }
    }
    if (Date.now() - startedMs > HOST_WAIT_SECONDS * 1000) {
      throw ApplicationFailure.create({
        type: 'HostUnreachable',
        nonRetryable: true,
        message: `no host can read repository ${plan.repository.name}: ${causes.join('; ')}`,
      });
    }
    view.waitingFor(`waiting for a host that can read repository ${plan.repository.name}: ${causes.join('; ')}`);
    await sleep((ASK_AGAIN_SECONDS[Math.min(round, ASK_AGAIN_SECONDS.length - 1)] ?? 60) * 1000);
  }
}

async function hash(
  plan: ValidationPlan,
  host: string,
  heartbeatSeconds: number,
  found: Findings,
  view: OperationView,
): Promise<void> {
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
