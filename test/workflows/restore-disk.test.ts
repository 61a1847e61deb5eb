import { describe, expect, it } from 'vitest';
import { preparedDisk, restoredDisk, RESTORE_DISK_REQUEST, restoreDiskSteps } from './fakes.ts';
import { failureOf, fails, recorded, workflowSuite } from './workflow-suite.ts';

const FIND = ['findBackup', 'whereIsVm', 'findVm', 'recordAnswer', 'whereIsVm', 'resolveDiskRestore'];

describe('restoreDisk', () => {
  const suite = workflowSuite();

  it('writes, then attaches, and gives the VM free before it tidies up', async () => {
    const { activities, calls } = recorded(restoreDiskSteps());
    await expect(suite.run('restoreDisk', RESTORE_DISK_REQUEST, activities)).resolves.toEqual(restoredDisk);
    expect(calls).toEqual([
      ...FIND,
      'requestAdmission',
      'prepareDisk',
      'restoreDisk',
      'attachDisk',
      'commitDiskRestore',
      'releaseAdmission',
      'finishDisk',
    ]);
  });

  it('only looks in a dry run', async () => {
    const { activities, calls } = recorded(restoreDiskSteps());
    const request = { ...RESTORE_DISK_REQUEST, dryRun: true };
    await expect(suite.run('restoreDisk', request, activities)).resolves.toEqual(preparedDisk);
    expect(calls).toEqual([...FIND, 'previewDisk']);
  });

  it.each([
    [{ ...RESTORE_DISK_REQUEST, disk: '../x' }, /disk: must be a disk target/],
    [{ ...RESTORE_DISK_REQUEST, path: 'images/x' }, /path: must be an absolute path/],
    [{ ...RESTORE_DISK_REQUEST, path: '/images/../etc/x' }, /path: must be an absolute path/],
    [{ backupId: RESTORE_DISK_REQUEST.backupId, disk: 'vda' }, /toVm: /],
  ])('refuses %j at once and names the field', async (request, field) => {
    const { activities, calls } = recorded(restoreDiskSteps());
    const { type, message } = await failureOf(suite.run('restoreDisk', request, activities));
    expect(type).toBe('InvalidRequest');
    expect(message).toMatch(field);
    expect(calls).toEqual([]);
  });

  it.each(['prepareDisk', 'restoreDisk', 'attachDisk', 'commitDiskRestore'] as const)(
    'undoes all it did when %s fails, and gives the admission back last',
    async (step) => {
      const { activities, calls } = recorded({ ...restoreDiskSteps(), [step]: fails('IntegrityMismatch') });
      const { type } = await failureOf(suite.run('restoreDisk', RESTORE_DISK_REQUEST, activities));
      expect(type).toBe('IntegrityMismatch');
      expect(calls.slice(-3)).toEqual(['undoDisk', 'recordDiskRestoreFailure', 'releaseAdmission']);
    },
  );
});
