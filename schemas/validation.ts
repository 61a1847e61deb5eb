import { z } from 'zod';
import { validationCommand } from './catalog.ts';
import { repositoryRecord } from './repository.ts';
import { blobKey, uuid } from './names.ts';
import { validationState, validationStep } from './states.ts';

/** `skipped`: there was nothing to do, which proves nothing. `unable`: it could not be tried. */
export const stepResult = z.object({
  step: validationStep,
  result: z.enum(['passed', 'failed', 'skipped', 'unable']),
  /** For a person: what was found, on what. */
  detail: z.string(),
  durationMs: z.int().nonnegative(),
});
export type StepResult = z.infer<typeof stepResult>;

/** What a validation found; kept in the manifest and in the catalog. */
export const validationResult = z.object({
  state: z.enum(['Valid', 'NotValid', 'UnableToValidate']),
  steps: z.array(stepResult),
  /** From the start of the throw-away VM to the first answer of its guest agent; null when it gave none. */
  bootMs: z.int().nonnegative().nullable(),
  /** UTC, ISO 8601. */
  validatedAt: z.iso.datetime(),
  /** Where it was tried; null when no host could. */
  host: z.string().nullable(),
  /** Key of the picture of the guest's screen. */
  screenshot: blobKey.nullable(),
  /** In an encrypted repository: details of the steps, which may quote the guest; as `sealed` of a manifest. */
  sealed: z.base64().optional(),
});
export type ValidationResult = z.infer<typeof validationResult>;

/** When a VM last proved to boot: from which backup, and how long its agent took to answer. */
export const provenBoot = z.object({ backupId: z.string(), bootedAt: z.iso.datetime(), bootMs: z.int().nonnegative() });
export type ProvenBoot = z.infer<typeof provenBoot>;

/** What a validation is to do, with every default filled in. */
export const validationPlan = z.object({
  validationId: uuid,
  backupId: uuid,
  /** The VM that was backed up. */
  vm: z.object({ uuid: z.string(), name: z.string() }),
  repository: repositoryRecord,
  steps: z.array(validationStep).min(1),
  command: validationCommand.nullable(),
  bootTimeoutSeconds: z.int().positive(),
  /** Not valid ends the chain. */
  endChain: z.boolean(),
  workflowId: z.string(),
  runId: z.string(),
});
export type ValidationPlan = z.infer<typeof validationPlan>;

/** A stored file that is not as its manifest says, or not there. */
export const hashProblem = z.object({ backupId: z.string(), message: z.string() });
export type HashProblem = z.infer<typeof hashProblem>;

/** The state that follows from the steps: one that failed decides, then one that could not be tried. */
export function stateOf(steps: readonly StepResult[]): ValidationResult['state'] {
  const has = (result: StepResult['result']): boolean => steps.some((step) => step.result === result);
  if (has('failed')) return 'NotValid';
  if (has('unable') || !has('passed')) return 'UnableToValidate';
  return 'Valid';
}

/** In one line, why a backup is not valid or could not be validated. */
export function reasonOf({ state, steps }: Pick<ValidationResult, 'state' | 'steps'>): string {
  const wanted = state === 'NotValid' ? 'failed' : 'unable';
  const lines = steps.filter(({ result }) => result === wanted).map(({ step, detail }) => `${step}: ${detail}`);
  if (lines.length > 0) return lines.join('; ');
  return state === 'Valid' ? 'all steps passed' : 'no step proved anything: each was skipped';
}

/** States of a backup that a new validation may begin in; all but the one that means that another is at work. */
export const atRest = validationState.exclude(['Validating']);
