import { Context } from '@temporalio/activity';
import { describe, expect, it } from 'vitest';
import type { CopiedVm } from '../../schemas/copy.ts';
import type { CopiedRepository } from '../../workflows/copy-repository.ts';
import { CHILD, COPY_REQUEST, copySteps, FULL, GRANDCHILD, plannedCopies, stepOf } from './copy-fakes.ts';
import { VM } from './fakes.ts';
import { failureOf, fails, recorded, workflowSuite } from './workflow-suite.ts';

const BEGINNING = ['planCopy', 'requestAdmission', 'beginCopy', 'seesRepository', 'seesRepository', 'copyBackupFiles'];
const ONE = [...BEGINNING, 'commitCopy', 'forgetCopy', 'releaseAdmission'];
const UNDO = ['undoCopy', 'endCopy', 'releaseAdmission'];

describe('copyBackup', () => {
  const suite = workflowSuite();

  it('copies parents first, each under an admission of its own', async () => {
    const { activities, calls } = recorded(copySteps());
    const done = await suite.run<CopiedVm>('copyBackup', COPY_REQUEST, activities);
    expect(calls).toEqual(['planCopies', ...ONE, ...ONE]);
    expect(done).toMatchObject({ repository: 'off-site', writtenBytes: 200, problems: [] });
    expect(done.copied.map(({ id }) => id)).toEqual([FULL, CHILD]);
  });

  it('only tells in a dry run', async () => {
    const { activities, calls } = recorded(copySteps());
    const done = await suite.run<CopiedVm>('copyBackup', { ...COPY_REQUEST, dryRun: true }, activities);
    expect(calls).toEqual(['planCopies']);
    expect(done).toMatchObject({ dryRun: true, writtenBytes: 200 });
  });

  it('does nothing more when somebody else was first', async () => {
    const { activities, calls } = recorded({ ...copySteps(), beginCopy: () => Promise.resolve(false) });
    await suite.run('copyBackup', COPY_REQUEST, activities);
    expect(calls).not.toContain('copyBackupFiles');
    expect(calls.filter((name) => name === 'releaseAdmission')).toHaveLength(2);
  });

  it('undoes what it wrote when that fails, leaves out the children, and says why', async () => {
    const { activities, calls } = recorded({ ...copySteps(), copyBackupFiles: fails('RepositoryFull') });
    expect(await failureOf(suite.run('copyBackup', COPY_REQUEST, activities))).toMatchObject({
      type: 'RepositoryFull',
    });
    expect(calls).toEqual(['planCopies', ...BEGINNING, ...UNDO]);
  });

  it('undoes what it wrote when it is cancelled', async () => {
    const { activities, calls } = recorded({
      ...copySteps(),
      copyBackupFiles: async () => {
        const context = Context.current();
        const beat = setInterval(() => context.heartbeat(), 100);
        return await context.cancelled.finally(() => clearInterval(beat));
      },
    });
    await suite.run('copyBackup', COPY_REQUEST, activities, async (handle) => {
      while (!calls.includes('copyBackupFiles')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
      await Promise.allSettled([handle.result()]);
    });
    expect(calls).toEqual(['planCopies', ...BEGINNING, ...UNDO]);
  });
});

describe('copyRepository', () => {
  const suite = workflowSuite();

  it('goes on with other backups of a VM when one cannot be copied', async () => {
    const failing = fails('IntegrityMismatch');
    const other = stepOf(GRANDCHILD, null);
    const { activities, calls } = recorded({
      ...copySteps(),
      planCopies: () => Promise.resolve(plannedCopies([stepOf(FULL, null), stepOf(CHILD, FULL), other])),
      copyBackupFiles: (plan: { backupId: string }) =>
        plan.backupId === FULL ? failing() : copySteps().copyBackupFiles!(plan as never),
    });
    const done = await suite.run<CopiedVm>('copyRepository', { to: 'off-site', vm: 'web-1' }, activities);
    expect(done.copied.map(({ id }) => id)).toEqual([GRANDCHILD]);
    expect(done.problems.map(({ id, type }) => [id, type])).toEqual([
      [FULL, 'IntegrityMismatch'],
      [CHILD, 'IntegrityMismatch'],
    ]);
    expect(calls).toEqual(['planCopies', ...BEGINNING, ...UNDO, ...ONE]);
  });

  it('plans again while there is more, and does not try again what failed', async () => {
    const without: string[][] = [];
    const { activities } = recorded({
      ...copySteps(),
      copyBackupFiles: fails('IntegrityMismatch'),
      planCopies: (...[, given]: [unknown, string[]]) => {
        without.push(given);
        return Promise.resolve(
          plannedCopies([stepOf(without.length === 1 ? FULL : CHILD, null)], { left: 2 - without.length }),
        );
      },
    });
    await suite.run('copyRepository', { to: 'off-site', vm: 'web-1' }, activities);
    expect(without).toEqual([[], [FULL]]);
  });

  it('copies the backups of many VMs, page by page', async () => {
    const pages = [
      { vms: [VM, { ...VM, name: 'web-2' }], after: { repository: 'main', vm: VM.uuid } },
      { vms: [], after: null },
    ];
    const { activities } = recorded({
      ...copySteps(),
      vmsToCopy: (...[, after]: [unknown, unknown]) => Promise.resolve(after === null ? pages[0] : pages[1]),
    });
    const done = await suite.run<CopiedRepository>('copyRepository', { to: 'off-site' }, activities);
    expect(done).toMatchObject({ vms: 2, copied: 4, writtenBytes: 400, problemCount: 0 });
  });
});
