import { describe, expect, it } from 'vitest';
import { preview, restored, RESTORE_REQUEST, restoreSteps } from './fakes.ts';
import { failureOf, fails, recorded, workflowSuite } from './workflow-suite.ts';

const FIND = ['findBackup', 'whereIsVm', 'findVm', 'recordAnswer', 'whereIsVm', 'whereIsVm', 'resolveRestore'];

describe('restoreVm', () => {
  const suite = workflowSuite();

  it('writes beside, then swaps, then removes what was there', async () => {
    const { activities, calls } = recorded(restoreSteps());
    await expect(suite.run('restoreVm', RESTORE_REQUEST, activities)).resolves.toEqual(restored);
    expect(calls).toEqual([
      ...FIND,
      'requestAdmission',
      'beginRestore',
      'prepareRestore',
      'restoreDisk',
      'restoreDisk',
      'swapDisks',
      'commitRestore',
      'releaseAdmission',
      'finishRestore',
    ]);
  });

  it.each([
    [{}, /backupId: /],
    [{ backupId: '../etc/passwd' }, /backupId: must be a UUID/],
    [{ ...RESTORE_REQUEST, as: 'a/b' }, /as: must be a VM name/],
  ])('refuses %j at once and names the field', async (request, field) => {
    const { activities, calls } = recorded(restoreSteps());
    const { type, message } = await failureOf(suite.run('restoreVm', request, activities));
    expect(type).toBe('InvalidRequest');
    expect(message).toMatch(field);
    expect(calls).toEqual([]);
  });

  it.each(['prepareRestore', 'restoreDisk', 'swapDisks', 'commitRestore'] as const)(
    'undoes all it did when %s fails, and gives the admission back last',
    async (step) => {
      const { activities, calls } = recorded({ ...restoreSteps(), [step]: fails('IntegrityMismatch') });
      const { type } = await failureOf(suite.run('restoreVm', RESTORE_REQUEST, activities));
      expect(type).toBe('IntegrityMismatch');
      expect(calls.slice(-3)).toEqual(['undoRestore', 'recordRestoreFailure', 'releaseAdmission']);
    },
  );

  it('only looks in a dry run, and asks for no admission', async () => {
    const { activities, calls } = recorded(restoreSteps());
    await expect(suite.run('restoreVm', { ...RESTORE_REQUEST, dryRun: true }, activities)).resolves.toEqual(preview);
    expect(calls).toEqual([...FIND, 'previewRestore']);
  });

  it('leaves the state of a VM alone that it never got', async () => {
    let begun: unknown;
    const { activities } = recorded({
      ...restoreSteps(),
      requestAdmission: fails('InvalidRequest'),
      recordRestoreFailure: (...parameters: [unknown, string, string, unknown, boolean]) => {
        begun = parameters[4];
        return Promise.resolve();
      },
    });
    await failureOf(suite.run('restoreVm', RESTORE_REQUEST, activities));
    expect(begun).toBe(false);
  });

  it('is restored though the former disks cannot be removed', async () => {
    const { activities, calls } = recorded({ ...restoreSteps(), finishRestore: fails('HostRefused') });
    await expect(suite.run('restoreVm', RESTORE_REQUEST, activities)).resolves.toEqual(restored);
    expect(calls).not.toContain('undoRestore');
  });

  it('marks what could not be undone', async () => {
    let left: unknown;
    const { activities } = recorded({
      ...restoreSteps(),
      restoreDisk: fails('IntegrityMismatch'),
      undoRestore: fails('HostRefused', 'no entry'),
      recordRestoreFailure: (...parameters: [unknown, string, string, unknown]) => {
        left = parameters[3];
        return Promise.resolve();
      },
    });
    await failureOf(suite.run('restoreVm', RESTORE_REQUEST, activities));
    expect(left).toEqual([{ step: 'undo restore', cause: 'no entry' }]);
  });
});
