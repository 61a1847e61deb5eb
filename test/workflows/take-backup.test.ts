import { Context } from '@temporalio/activity';
import type { WorkflowHandle } from '@temporalio/client';
import { describe, expect, it } from 'vitest';
import type { BackupPlan, DiskExport, OperationProgress } from '../../schemas/plan.ts';
import { backupSteps, completed, copyOf, deltaOf, planOf, snapshotSteps } from './fakes.ts';
import { failureOf, fails, recorded, workflowSuite, type FakeActivities } from './workflow-suite.ts';

const ASK = ['checkRequest', 'whereIsVm', 'findVm', 'recordAnswer', 'whereIsVm', 'resolveTarget', 'requestAdmission'];
const PLAN = ['parentFiles', 'inspectVm', 'planBackup'];
const UNDO = ['abortBackup', 'recordFailure', 'releaseAdmission'];

/** A copy that goes on until it is cancelled. */
const copyUntilCancelled = async (): Promise<never> => {
  const context = Context.current();
  const beat = setInterval(() => context.heartbeat(), 100);
  try {
    return await context.cancelled;
  } finally {
    clearInterval(beat);
  }
};

describe('takeBackup', () => {
  const suite = workflowSuite();
  const failing = async (activities: FakeActivities, request: unknown = { vm: 'web-1' }) =>
    await failureOf(suite.run('takeBackup', request, activities));

  it('publishes before it lists, and gives the admission back last', async () => {
    const { activities, calls } = recorded(backupSteps());
    await expect(suite.run('takeBackup', { vm: 'web-1' }, activities)).resolves.toMatchObject({ state: 'BackedUp' });
    expect(calls).toEqual([
      ...ASK,
      ...PLAN,
      'beginBackup',
      'copyDisk',
      'copyDisk',
      'endBackup',
      'publishBackup',
      'commitBackup',
      'staleCheckpoints',
      'forgetBackup',
      'checkpointsRemoved',
      'releaseAdmission',
    ]);
  });

  it('merges older overlays when the backup is listed, and takes its own off before all else when it fails', async () => {
    const { activities, calls } = recorded(snapshotSteps());
    await expect(suite.run('takeBackup', { vm: 'web-1' }, activities)).resolves.toMatchObject({ state: 'BackedUp' });
    expect(calls.slice(ASK.length + PLAN.length)).toEqual([
      ...['beginBackup', 'recordDeltas', 'copyDisk', 'copyDisk', 'endBackup', 'publishBackup', 'commitBackup'],
      ...['deltasOnVm', 'mergeDeltas', 'deltasSettled'],
      ...['staleCheckpoints', 'forgetBackup', 'checkpointsRemoved', 'releaseAdmission'],
    ]);
    const failed = recorded({ ...snapshotSteps(), endBackup: fails('BackupJobLost') });
    expect((await failing(failed.activities)).type).toBe('BackupJobLost');
    expect(failed.calls.slice(failed.calls.indexOf('endBackup') + 1)).toEqual([
      ...['undoSnapshot', 'deltasOnVm', 'mergeDeltas', 'deltasSettled'],
      ...UNDO,
    ]);
  });

  it('is a backup though its merge fails, and marks the VM', async () => {
    const { activities, calls } = recorded({ ...snapshotSteps(), mergeDeltas: fails('DeltaAnomaly') });
    await expect(suite.run('takeBackup', { vm: 'web-1' }, activities)).resolves.toMatchObject({ state: 'BackedUp' });
    expect(calls).toContain('recordMergeFailure');
    expect(calls).not.toContain('abortBackup');
  });

  it('merges the overlays of the other strategy before it plans by checkpoints', async () => {
    let merged = false;
    const { activities, calls } = recorded({
      ...snapshotSteps(),
      ...backupSteps(),
      mergeDeltas: () => {
        merged = true;
        return Promise.resolve({ forget: [], update: [], postponed: [], anomalies: [] });
      },
      planBackup: (backupId: string) =>
        Promise.resolve({ ...planOf(backupId), ...(merged ? {} : { mergeFirst: [deltaOf('vda')] }) }),
    });
    await expect(suite.run('takeBackup', { vm: 'web-1' }, activities)).resolves.toMatchObject({ state: 'BackedUp' });
    expect(calls.slice(ASK.length)).toEqual(
      expect.arrayContaining([...PLAN, 'mergeDeltas', 'deltasSettled', ...PLAN, 'beginBackup']),
    );
    expect(calls.filter((call) => call === 'planBackup')).toHaveLength(2);
  });

  it.each([
    [{}, /vm: /],
    [{ vm: 'a/b' }, /vm: must be a VM name/],
    [{ vm: 'web-1', quiesce: 'maybe' }, /quiesce: /],
    [{ vm: 'web-1', disks: ['vda'] }, /disks: /],
  ])('refuses %j at once and names the field', async (request, field) => {
    const { activities, calls } = recorded(backupSteps());
    const { type, message } = await failing(activities, request);
    expect(type).toBe('InvalidRequest');
    expect(message).toMatch(field);
    expect(calls).toEqual([]);
  });

  it('undoes, then notes the failure, then gives the admission back', async () => {
    const { activities, calls } = recorded({ ...backupSteps(), beginBackup: fails('QuiesceFailed') });
    expect((await failing(activities)).type).toBe('QuiesceFailed');
    expect(calls).toEqual([...ASK, ...PLAN, 'beginBackup', ...UNDO]);
  });

  it('touches no host before it is admitted, so there is nothing to undo', async () => {
    const { activities, calls } = recorded({ ...backupSteps(), requestAdmission: fails('Error') });
    await failing(activities);
    expect(calls).toEqual([...ASK, 'recordFailure', 'releaseAdmission']);
  });

  it('stops the other copies when one disk cannot be copied, waits for them, then undoes', async () => {
    let other = 'running';
    const { activities, calls } = recorded({
      ...backupSteps(),
      copyDisk: async (...[, disk]: [BackupPlan, DiskExport]) => {
        if (disk.target === 'vda') return await fails('RepositoryFull')();
        try {
          return await copyUntilCancelled();
        } finally {
          other = `stopped before ${String(calls.includes('abortBackup'))}`;
        }
      },
    });
    expect((await failing(activities)).type).toBe('RepositoryFull');
    expect(other).toBe('stopped before false');
    expect(calls.slice(-3)).toEqual(UNDO);
  });

  it('marks what could not be undone', async () => {
    let left: unknown;
    const { activities } = recorded({
      ...backupSteps(),
      copyDisk: fails('RepositoryFull'),
      abortBackup: fails('HostRefused', 'no entry'),
      recordFailure: (...parameters: [string, string, string, unknown]) => {
        left = parameters.slice(1);
        return Promise.resolve();
      },
    });
    expect((await failing(activities)).type).toBe('RepositoryFull');
    expect(left).toEqual([
      'RepositoryFull',
      'RepositoryFull happened',
      [{ step: 'abort backup job', cause: 'no entry' }],
    ]);
  });

  it('plans again when the checkpoint is lost: without that parent, then in full, and no more', async () => {
    const lost: string[][] = [];
    const { activities, calls } = recorded({
      ...backupSteps(),
      planBackup: (...[id, , , , lostNow]: [string, unknown, unknown, unknown, string[]]) => {
        lost.push(lostNow);
        const parentId = ['younger', 'older'][lostNow.length];
        const plan = planOf(id, lostNow.length > 1);
        return Promise.resolve(parentId === undefined ? plan : { ...plan, type: 'incremental' as const, parentId });
      },
      beginBackup: fails('CheckpointLost'),
    });
    expect((await failing(activities)).type).toBe('CheckpointLost');
    expect(lost).toEqual([[], ['younger'], ['younger', 'older']]);
    const plans = [1, 2, 3].flatMap(() => [...PLAN, 'beginBackup']);
    expect(calls).toEqual([...ASK, ...plans, ...UNDO]);
  });

  it('stops its copies at the time limit, undoes, and says what was reached', async () => {
    const { activities, calls } = recorded({
      ...backupSteps(),
      checkRequest: () => Promise.resolve({ timeLimitSeconds: 1, heartbeatSeconds: 5 }),
      copyDisk: copyUntilCancelled,
    });
    const { type, message } = await failing(activities);
    expect(type).toBe('TimeLimitReached');
    expect(message).toMatch(/web-1: the time limit of 1 s/);
    expect(calls.slice(-3)).toEqual(UNDO);
  });

  it('takes a limit of a hundred days for what it is', async () => {
    const days = 100 * 86_400;
    const { activities } = recorded({
      ...backupSteps(),
      checkRequest: () => Promise.resolve({ timeLimitSeconds: days, heartbeatSeconds: 5 }),
    });
    const use = async (handle: WorkflowHandle) => {
      await handle.result();
      return await handle.fetchHistory();
    };
    const { events } = await suite.run('takeBackup', { vm: 'web-1' }, activities, use);
    const timers = (events ?? []).flatMap(({ timerStartedEventAttributes: timer }) => timer?.startToFireTimeout ?? []);
    const copies = (events ?? []).flatMap(({ activityTaskScheduledEventAttributes: activity }) =>
      activity?.activityType?.name === 'copyDisk' ? (activity.startToCloseTimeout ?? []) : [],
    );
    expect(timers.map(({ seconds }) => Number(seconds))).toContain(days);
    expect(copies.map(({ seconds }) => Number(seconds))).toEqual([days, days]);
  });

  it('waits for its admission, says what for, and goes on when it is told', async () => {
    let asked = 0;
    const { activities } = recorded({
      ...backupSteps(),
      requestAdmission: () => {
        asked += 1;
        return Promise.resolve(
          asked > 1 ? { granted: true } : { granted: false, waitingFor: 'waiting for VM web-1', blockers: [] },
        );
      },
    });
    await suite.run('takeBackup', { vm: 'web-1' }, activities, async (handle: WorkflowHandle) => {
      for (;;) {
        const { waitingFor } = await handle.query<OperationProgress>('progress');
        if (waitingFor === 'waiting for VM web-1') break;
      }
      const startedMs = Date.now();
      await handle.signal('admissionGranted');
      await handle.result();
      expect(Date.now() - startedMs).toBeLessThan(4500); // it would ask by itself after five seconds
    });
    expect(asked).toBe(2);
  });

  it('is undone when it is cancelled in its copies', async () => {
    const { activities, calls } = recorded({ ...backupSteps(), copyDisk: copyUntilCancelled });
    await suite.run('takeBackup', { vm: 'web-1' }, activities, async (handle: WorkflowHandle) => {
      while (!calls.includes('copyDisk')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
      expect((await failureOf(handle.result())).type).toBe('Cancelled');
    });
    expect(calls.slice(-3)).toEqual(UNDO);
  });

  it('comes about when it is cancelled while its manifest is written', async () => {
    let handle: WorkflowHandle | undefined;
    const { activities, calls } = recorded({
      ...backupSteps(),
      publishBackup: async (plan: BackupPlan) => {
        await handle?.cancel();
        return completed(plan.backupId);
      },
    });
    await suite.run('takeBackup', { vm: 'web-1' }, activities, async (started: WorkflowHandle) => {
      handle = started;
      await expect(started.result()).resolves.toMatchObject({ state: 'BackedUp' });
    });
    expect(calls).not.toContain('abortBackup');
  });

  it('is listed when its manifest is written though the answer was lost for good', async () => {
    const { activities, calls } = recorded({
      ...backupSteps(),
      publishBackup: fails('HostUnreachable'),
      abortBackup: (backupId: string) =>
        Promise.resolve({
          published: { plan: planOf(backupId), completed: completed(backupId) },
          leftInRepository: null,
        }),
    });
    await expect(suite.run('takeBackup', { vm: 'web-1' }, activities)).resolves.toMatchObject({ state: 'BackedUp' });
    expect(calls).toContain('commitBackup');
    expect(calls).not.toContain('recordFailure');
  });

  it('is stored though nothing can be tidied up after it', async () => {
    const { activities } = recorded({ ...backupSteps(), forgetBackup: fails('HostRefused') });
    await expect(suite.run('takeBackup', { vm: 'web-1' }, activities)).resolves.toMatchObject({ state: 'BackedUp' });
  });

  it('copies a disk again whose worker died', async () => {
    let attempts = 0;
    const { activities } = recorded({
      ...backupSteps(),
      checkRequest: () => Promise.resolve({ timeLimitSeconds: 60, heartbeatSeconds: 1 }),
      copyDisk: async (...[, disk]: [BackupPlan, DiskExport]) => {
        attempts += 1;
        if (attempts === 1) return await Context.current().cancelled; // gives no heartbeat
        return copyOf(disk);
      },
    });
    await suite.run('takeBackup', { vm: 'web-1' }, activities);
    expect(attempts).toBe(3);
  });
});
