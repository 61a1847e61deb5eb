import { describe, expect, it } from 'vitest';
import type { CheckedFile, CheckedRepository, CheckPlan, FileToCheck } from '../../schemas/check.ts';
import { checkSteps, fileOf, RESCAN_REQUEST } from './rescan-fakes.ts';
import { recorded, workflowSuite, type FakeActivities } from './workflow-suite.ts';

/** The file `b` is damaged as often as it is looked at, or once only. */
const damaged = (times: number): FakeActivities => {
  let seen = 0;
  return {
    ...checkSteps(),
    verifyStored: (...[, files]: [CheckPlan, FileToCheck[]]) =>
      Promise.resolve(
        files.map((file): CheckedFile => {
          const isBad = file.backupId === fileOf('b').backupId && seen++ < times;
          return isBad ? { file, outcome: 'damaged', message: 'altered' } : { file, outcome: 'right' };
        }),
      ),
  };
};

describe('checkRepository', () => {
  const suite = workflowSuite();

  it('compares all files, some at a time, and notes each answer', async () => {
    const { activities, calls } = recorded(checkSteps());
    const checked = await suite.run<CheckedRepository>('checkRepository', RESCAN_REQUEST, activities);
    expect(checked).toMatchObject({ files: 3, bytes: 30, damagedFiles: 0 });
    const batch = ['filesToCheck', 'verifyStored', 'noteChecked'];
    expect(calls).toEqual(['planCheck', 'seesRepository', ...batch, ...batch, 'endCheck']);
  });

  it('calls a file damaged only when it still is while nobody may delete or swap it', async () => {
    const { activities, calls } = recorded(damaged(2));
    const checked = await suite.run<CheckedRepository>('checkRepository', RESCAN_REQUEST, activities);
    expect(checked.damaged).toMatchObject([{ backupId: fileOf('b').backupId, message: 'altered' }]);
    const second = [
      'admissionToCheck',
      'requestAdmission',
      'stillStored',
      'verifyStored',
      'noteChecked',
      'releaseAdmission',
    ];
    expect(calls.slice(5, 5 + second.length)).toEqual(second);
  });

  it('says nothing of a file that was swapped while it was read, or deleted', async () => {
    const swapped = await suite.run<CheckedRepository>(
      'checkRepository',
      RESCAN_REQUEST,
      recorded(damaged(1)).activities,
    );
    expect(swapped.damagedFiles).toBe(0);
    const gone = { ...damaged(2), stillStored: () => Promise.resolve(false) };
    const deleted = await suite.run<CheckedRepository>('checkRepository', RESCAN_REQUEST, recorded(gone).activities);
    expect(deleted.damagedFiles).toBe(0);
  });
});
