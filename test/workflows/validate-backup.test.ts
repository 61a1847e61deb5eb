import { Context } from '@temporalio/activity';
import { describe, expect, it } from 'vitest';
import type { OperationProgress } from '../../schemas/plan.ts';
import type { ValidatedBackup } from '../../workflows/validate-backup.ts';
import { ROOM, VALIDATE_REQUEST, VALIDATED_ID, validationSteps } from './validation-fakes.ts';
import { failureOf, fails, recorded, workflowSuite } from './workflow-suite.ts';

const UNDO = ['endThrowAwayVm', 'restoreValidation', 'releaseAdmission'];
const END = ['keepValidation', 'commitValidation', ...UNDO];
const BEGIN = ['planValidation', 'requestAdmission', 'beginValidation', 'validationRoom'];

describe('validateBackup', () => {
  const suite = workflowSuite();
  const run = (steps = validationSteps()) => {
    const { activities, calls } = recorded(steps);
    return { calls, result: suite.run<ValidatedBackup>('validateBackup', VALIDATE_REQUEST, activities) };
  };
  const outcomes = ({ validationResult }: ValidatedBackup) =>
    Object.fromEntries(validationResult.steps.map(({ step, result }) => [step, result]));

  it('hashes, then boots where there is room, and keeps the result before it gives the chain back', async () => {
    const { calls, result } = run();
    await expect(result).resolves.toMatchObject({
      id: VALIDATED_ID,
      validation: 'Valid',
      validationResult: { state: 'Valid', bootMs: 3000, host: 'kvm-1' },
    });
    expect(calls).toEqual([...BEGIN, 'hashBackup', 'validationRoom', 'bootBackup', ...END]);
  });

  it('boots nothing whose stored bytes are not right', async () => {
    const problems = [{ backupId: VALIDATED_ID, message: 'disk-0/full.qcow2: bytes 0 to 4096 were altered' }];
    const { calls, result } = run({
      ...validationSteps(),
      hashBackup: () => Promise.resolve({ files: 1, verifiedBytes: 4096, problems }),
    });
    const validated = await result;
    expect(validated.validation).toBe('NotValid');
    expect(outcomes(validated)).toEqual({ hash: 'failed', boot: 'skipped', screenshot: 'skipped' });
    expect(calls).not.toContain('bootBackup');
  });

  it('is unable to validate, and says why, when a step cannot be tried', async () => {
    const { calls, result } = run({ ...validationSteps(), bootBackup: fails('HostRefused', 'QEMU is missing') });
    const validated = await result;
    expect(validated.validation).toBe('UnableToValidate');
    expect(outcomes(validated)).toEqual({ hash: 'passed', boot: 'unable', screenshot: 'unable' });
    expect(validated.validationResult.steps[1]?.detail).toBe('QEMU is missing');
    expect(calls.slice(-UNDO.length)).toEqual(UNDO);
  });

  it('is unable at once when the VM fits on no host', async () => {
    const { result } = run({
      ...validationSteps(),
      validationRoom: () => Promise.resolve({ ...ROOM, neededBytes: 2 * ROOM.totalBytes }),
    });
    const validated = await result;
    expect(outcomes(validated)).toEqual({ hash: 'passed', boot: 'unable', screenshot: 'unable' });
    expect(validated.validationResult.steps[1]?.detail).toBe(
      'there was no room on kvm-1: needs 8.0 GiB, 2.0 GiB of 4.0 GiB are free',
    );
  });

  it('waits for room, saying so, and gives the backup its former state when it is cancelled meanwhile', async () => {
    const { activities, calls } = recorded({
      ...validationSteps(),
      validationRoom: () => Promise.resolve({ ...ROOM, freeBytes: ROOM.neededBytes / 2 }),
    });
    const type = await suite.run('validateBackup', VALIDATE_REQUEST, activities, async (handle) => {
      for (;;) {
        const progress = await handle.query<OperationProgress>('progress');
        if (progress.waitingFor !== null) {
          expect(progress.waitingFor).toBe('waiting for room on kvm-1: needs 1.0 GiB, 0.5 GiB of 4.0 GiB are free');
          break;
        }
        await new Promise((done) => setTimeout(done, 50));
      }
      await handle.cancel();
      return (await failureOf(handle.result())).type;
    });
    expect(type).toBe('Cancelled');
    expect(calls.slice(-2)).toEqual(['restoreValidation', 'releaseAdmission']);
    expect(calls).not.toContain('commitValidation');
  });

  it('ends the throw-away VM when it is cancelled in mid-boot', async () => {
    const { activities, calls } = recorded({
      ...validationSteps(),
      bootBackup: async () => {
        const context = Context.current();
        const beat = setInterval(() => context.heartbeat(), 100);
        return await context.cancelled.finally(() => clearInterval(beat));
      },
    });
    const type = await suite.run('validateBackup', VALIDATE_REQUEST, activities, async (handle) => {
      while (!calls.includes('bootBackup')) await new Promise((done) => setTimeout(done, 50));
      await handle.cancel();
      return (await failureOf(handle.result())).type;
    });
    expect(type).toBe('Cancelled');
    expect(calls.slice(-UNDO.length)).toEqual(UNDO);
  });

  it('keeps the result in the catalog though the manifest cannot be written', async () => {
    const { result } = run({ ...validationSteps(), keepValidation: fails('RepositoryReadOnly') });
    await expect(result).resolves.toMatchObject({ validation: 'Valid' });
  });

  it('fails, and leaves the state alone, when another run validates the backup', async () => {
    const { calls, result } = run({ ...validationSteps(), beginValidation: fails('ValidationRunning') });
    expect((await failureOf(result)).type).toBe('ValidationRunning');
    expect(calls).not.toContain('hashBackup');
  });

  it.each([
    [{}, /backupId: /],
    [{ ...VALIDATE_REQUEST, steps: ['bot'] }, /steps.0: /],
    [{ ...VALIDATE_REQUEST, command: { argv: [] } }, /command.argv: /],
  ])('refuses %j at once and names the field', async (request, field) => {
    const { activities } = recorded(validationSteps());
    const { type, message } = await failureOf(suite.run('validateBackup', request, activities));
    expect(type).toBe('InvalidRequest');
    expect(message).toMatch(field);
  });
});
