import { describe, expect, it } from 'vitest';
import { reasonOf, stateOf, type StepResult } from '../../schemas/validation.ts';

const steps = (results: Record<string, StepResult['result']>): StepResult[] =>
  Object.entries(results).map(([step, result]) => ({
    step: step as StepResult['step'],
    result,
    detail: `${step} d`,
    durationMs: 1,
  }));

describe('the state that follows from the steps', () => {
  it.each([
    [{ hash: 'passed', boot: 'passed' }, 'Valid', 'all steps passed'],
    [{ hash: 'passed', command: 'skipped' }, 'Valid', 'all steps passed'],
    [{ boot: 'skipped', screenshot: 'passed' }, 'Valid', 'all steps passed'],
    [{ hash: 'passed', boot: 'failed' }, 'NotValid', 'boot: boot d'],
    [{ hash: 'failed', boot: 'unable' }, 'NotValid', 'hash: hash d'],
    [{ hash: 'passed', boot: 'unable' }, 'UnableToValidate', 'boot: boot d'],
    [{ command: 'skipped' }, 'UnableToValidate', 'no step proved anything: each was skipped'],
    [{}, 'UnableToValidate', 'no step proved anything: each was skipped'],
  ] as const)('%j is %s', (results, state, reason) => {
    expect(stateOf(steps(results))).toBe(state);
    expect(reasonOf({ state, steps: steps(results) })).toBe(reason);
  });
});
