import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { Context } from '@temporalio/activity';
import type { WorkflowHandle } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { DELETE_REQUEST, deleteSteps, reclaimSteps, retentionSteps } from './delete-fakes.ts';
import {
  backupSteps,
  RESTORE_DISK_REQUEST,
  restoreDiskSteps,
  restoreSteps,
  RESTORE_REQUEST,
  snapshotSteps,
} from './fakes.ts';
import { COPY_REQUEST, copySteps } from './copy-fakes.ts';
import { chainSteps, nothingOpen } from './chain-fakes.ts';
import { dueVms, SCHEDULE_REQUEST, scheduleSteps } from './schedule-fakes.ts';
import { VALIDATE_REQUEST, validationSteps } from './validation-fakes.ts';
import { CONSOLIDATE_REQUEST, consolidationSteps, pullState, QUICK_REQUEST, quickRestoreSteps } from './quick-fakes.ts';
import { checkSteps, RESCAN_REQUEST, rescanSteps } from './rescan-fakes.ts';
import { BACKUP, compressSteps, mergeSteps } from './rewrite-fakes.ts';
import { beQuiet, fails, recorded, workflowSuite, type FakeActivities } from './workflow-suite.ts';

const FOLDER = join(import.meta.dirname, '..', 'histories');
const WORKFLOWS = join(import.meta.dirname, '..', '..', 'workflows', 'index.ts');

/**
 * Runs of former versions must go on under the present one. A change that breaks this is behind `patched()`; a history
 * is recorded anew, with HOLDFAST_RECORD_HISTORIES=1, only while no release has made runs like it.
 */
describe('stored histories', async () => {
  const files = (await readdir(FOLDER)).filter((name) => name.endsWith('.json')).toSorted();

  it('are there for backups and restores', () => {
    expect(files).toEqual([
      'applyRetention-cancelled.json',
      'applyRetention-failure.json',
      'applyRetention-success.json',
      'checkRepository-cancelled.json',
      'checkRepository-failure.json',
      'checkRepository-success.json',
      'compressBackup-cancelled.json',
      'compressBackup-failure.json',
      'compressBackup-success.json',
      'consolidateDisks-cancelled.json',
      'consolidateDisks-failure.json',
      'consolidateDisks-success.json',
      'copyBackup-cancelled.json',
      'copyBackup-failure.json',
      'copyBackup-success.json',
      'copyRepository-cancelled.json',
      'copyRepository-failure.json',
      'copyRepository-success.json',
      'deleteBackup-cancelled.json',
      'deleteBackup-failure.json',
      'deleteBackup-success.json',
      'finishChain-cancelled.json',
      'finishChain-failure.json',
      'finishChain-success.json',
      'mergeBackups-cancelled.json',
      'mergeBackups-failure.json',
      'mergeBackups-success.json',
      'normalizeVm-cancelled.json',
      'normalizeVm-failure.json',
      'normalizeVm-success.json',
      'probeVm-failure.json',
      'probeVm-success.json',
      'reclaimOrphans-cancelled.json',
      'reclaimOrphans-failure.json',
      'reclaimOrphans-success.json',
      'rehearse-cancelled.json',
      'rehearse-failure.json',
      'rehearse-success.json',
      'rescanRepository-cancelled.json',
      'rescanRepository-failure.json',
      'rescanRepository-success.json',
      'restoreDisk-cancelled.json',
      'restoreDisk-failure.json',
      'restoreDisk-success.json',
      'restoreVm-quick.json',
      'restoreVm-success.json',
      'runSchedule-cancelled.json',
      'runSchedule-failure.json',
      'runSchedule-success.json',
      'scheduledCheck-cancelled.json',
      'scheduledCheck-failure.json',
      'scheduledCheck-success.json',
      'sendReport-cancelled.json',
      'sendReport-failure.json',
      'sendReport-success.json',
      'takeBackup-cancelled.json',
      'takeBackup-failure.json',
      'takeBackup-snapshot-failure.json',
      'takeBackup-snapshot-success.json',
      'takeBackup-success.json',
      'validateBackup-cancelled.json',
      'validateBackup-failure.json',
      'validateBackup-success.json',
    ]);
  });

  it('replay without a difference', { timeout: 60_000 }, async () => {
    const histories = await Promise.all(
      files.map(async (name) => ({
        workflowId: name,
        history: JSON.parse(await readFile(join(FOLDER, name), 'utf8')) as unknown,
      })),
    );
    beQuiet();
    const different: string[] = [];
    for await (const { workflowId, error } of Worker.runReplayHistories({ workflowsPath: WORKFLOWS }, histories)) {
      if (error) different.push(`${workflowId}: ${error.message}`);
    }
    expect(different).toEqual([]);
  });
});

/** No names of the machine it was recorded on. */
const withoutMachine = (history: string): string =>
  JSON.stringify(JSON.parse(history), (key, value: unknown) =>
    key === 'identity' ? 'worker' : key === 'stackTrace' ? '' : value,
  );

/** `1`, or the beginning of the names that are recorded. */
const wanted = process.env['HOLDFAST_RECORD_HISTORIES'];
describe.runIf(wanted !== undefined)('recording', () => {
  const suite = workflowSuite();
  const withStandIns = workflowSuite({ workflowsPath: join(import.meta.dirname, 'fixtures', 'scheduled.ts') });
  const untilCancelled = async (): Promise<never> => {
    const context = Context.current();
    const beat = setInterval(() => context.heartbeat(), 100);
    return await context.cancelled.finally(() => clearInterval(beat));
  };
  const record = async (
    name: string,
    request: unknown,
    steps: FakeActivities,
    during: (handle: WorkflowHandle, calls: string[]) => Promise<void> = () => Promise.resolve(),
    by = suite,
  ): Promise<void> => {
    if (wanted !== '1' && !name.startsWith(wanted ?? '')) return;
    const { activities, calls } = recorded(steps);
    const [workflow = ''] = name.split('-');
    await by.run(workflow, request, activities, async (handle) => {
      await during(handle, calls);
      await Promise.allSettled([handle.result()]);
      const history = historyToJSON(await handle.fetchHistory());
      await writeFile(join(FOLDER, `${name}.json`), `${withoutMachine(history)}\n`);
    });
  };

  it('records those of schedules', { timeout: 180_000 }, async () => {
    for (const workflow of ['runSchedule', 'rehearse', 'sendReport'] as const) {
      const nothing = (): Promise<void> => Promise.resolve();
      const steps = scheduleSteps(workflow);
      const gone = { ...steps, beginScheduleRun: fails('ScheduleNotFound') };
      await record(`${workflow}-success`, SCHEDULE_REQUEST, steps, nothing, withStandIns);
      await record(`${workflow}-failure`, SCHEDULE_REQUEST, gone, nothing, withStandIns);
      const held = { ...scheduleSteps(workflow, dueVms('d', 'f')), postReport: untilCancelled };
      const cancel = async (handle: WorkflowHandle, calls: string[]): Promise<void> => {
        const atWork = (): number => calls.filter((name) => name === 'vmStarted' || name === 'postReport').length;
        while (atWork() < (workflow === 'sendReport' ? 1 : 2)) await new Promise((done) => setTimeout(done, 20));
        await handle.cancel();
      };
      await record(`${workflow}-cancelled`, SCHEDULE_REQUEST, held, cancel, withStandIns);
    }
  });

  it('records them', async () => {
    await record('takeBackup-success', { vm: 'web-1' }, backupSteps());
    await record('takeBackup-failure', { vm: 'web-1' }, { ...backupSteps(), copyDisk: fails('RepositoryFull') });
    const cancelling = { ...backupSteps(), copyDisk: untilCancelled };
    await record('takeBackup-cancelled', { vm: 'web-1' }, cancelling, async (handle, calls) => {
      while (!calls.includes('copyDisk')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
    });
    for (const [name, request, steps] of [
      ['compressBackup', { backupId: BACKUP }, compressSteps()],
      ['mergeBackups', { vm: 'web-1' }, mergeSteps()],
    ] as const) {
      await record(`${name}-success`, request, steps);
      await record(`${name}-failure`, request, { ...steps, rewriteBackup: fails('RepositoryFull') });
      const held = { ...steps, rewriteBackup: untilCancelled };
      await record(`${name}-cancelled`, request, held, async (handle, calls) => {
        while (!calls.includes('rewriteBackup')) await new Promise((done) => setTimeout(done, 20));
        await handle.cancel();
      });
    }
    await record('restoreVm-success', RESTORE_REQUEST, restoreSteps());
    await record('restoreDisk-success', RESTORE_DISK_REQUEST, restoreDiskSteps());
    const refused = { ...restoreDiskSteps(), attachDisk: fails('DiskNotAttachable') };
    await record('restoreDisk-failure', RESTORE_DISK_REQUEST, refused);
    const writing = { ...restoreDiskSteps(), restoreDisk: untilCancelled };
    await record('restoreDisk-cancelled', RESTORE_DISK_REQUEST, writing, async (handle, calls) => {
      while (!calls.includes('restoreDisk')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
    });
  });

  it('records those of copies', async () => {
    for (const [workflow, request] of [
      ['copyBackup', COPY_REQUEST],
      ['copyRepository', { to: 'off-site', vm: 'web-1' }],
    ] as const) {
      await record(`${workflow}-success`, request, copySteps());
      await record(`${workflow}-failure`, request, { ...copySteps(), copyBackupFiles: fails('RepositoryFull') });
      const held = { ...copySteps(), copyBackupFiles: untilCancelled };
      await record(`${workflow}-cancelled`, request, held, cancelledAt('copyBackupFiles'));
    }
  });

  it('records those of quick restore', async () => {
    await record('restoreVm-quick', QUICK_REQUEST, quickRestoreSteps());
    const states = [pullState({ state: 'pulling' }), pullState({ state: 'done' })];
    await record('consolidateDisks-success', CONSOLIDATE_REQUEST, consolidationSteps(states));
    const damaged = { ...consolidationSteps(states), verifyChain: fails('IntegrityMismatch') };
    await record('consolidateDisks-failure', CONSOLIDATE_REQUEST, damaged);
    const pulling = { ...consolidationSteps(), watchPull: untilCancelled };
    await record('consolidateDisks-cancelled', CONSOLIDATE_REQUEST, pulling, async (handle, calls) => {
      while (!calls.includes('watchPull')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
    });
  });

  it('records those of chains', async () => {
    const request = { vm: 'web-1' };
    await record('finishChain-success', request, chainSteps());
    await record('finishChain-failure', request, { ...chainSteps(), ...nothingOpen });
    const removing = { ...chainSteps(), removeCheckpoints: untilCancelled };
    await record('finishChain-cancelled', request, removing, async (handle, calls) => {
      while (!calls.includes('removeCheckpoints')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
    });
    await record('probeVm-success', request, chainSteps());
    await record('probeVm-failure', request, { ...chainSteps(), probeVm: fails('HostRefused') });
  });

  it('records those of strategy snapshot', async () => {
    const request = { vm: 'web-1', strategy: 'snapshot' };
    await record('takeBackup-snapshot-success', request, snapshotSteps());
    await record('takeBackup-snapshot-failure', request, { ...snapshotSteps(), copyDisk: fails('RepositoryFull') });
    await record('normalizeVm-success', { vm: 'web-1' }, snapshotSteps());
    await record('normalizeVm-failure', { vm: 'web-1' }, { ...snapshotSteps(), mergeDeltas: fails('DeltaAnomaly') });
    const merging = { ...snapshotSteps(), mergeDeltas: untilCancelled };
    await record('normalizeVm-cancelled', { vm: 'web-1' }, merging, async (handle, calls) => {
      while (!calls.includes('mergeDeltas')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
    });
  });

  it('records those of validations', async () => {
    await record('validateBackup-success', VALIDATE_REQUEST, validationSteps());
    await record('validateBackup-failure', VALIDATE_REQUEST, {
      ...validationSteps(),
      bootBackup: fails('HostRefused'),
    });
    const cancelling = { ...validationSteps(), bootBackup: untilCancelled };
    await record('validateBackup-cancelled', VALIDATE_REQUEST, cancelling, async (handle, calls) => {
      while (!calls.includes('bootBackup')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
    });
  });

  const cancelledAt =
    (step: string) =>
    async (handle: WorkflowHandle, calls: string[]): Promise<void> => {
      while (!calls.includes(step)) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
    };

  it('records those of deletes and retention', { timeout: 120_000 }, async () => {
    const busy = () => Promise.resolve({ granted: false as const, waitingFor: 'VM web-1', blockers: [] });
    await record('deleteBackup-success', DELETE_REQUEST, deleteSteps());
    await record('deleteBackup-failure', DELETE_REQUEST, {
      ...deleteSteps(),
      deleteFiles: fails('RepositoryReadOnly'),
    });
    const waiting = { ...deleteSteps(), requestAdmission: busy };
    await record('deleteBackup-cancelled', DELETE_REQUEST, waiting, cancelledAt('requestAdmission'));
    const request = { vm: 'web-1' };
    await record('applyRetention-success', request, retentionSteps());
    const refused = { ...retentionSteps(), deleteFiles: fails('RepositoryReadOnly') };
    await record('applyRetention-failure', request, refused);
    const alsoWaiting = { ...retentionSteps(), requestAdmission: busy };
    await record('applyRetention-cancelled', request, alsoWaiting, cancelledAt('requestAdmission'));
  });

  it('records those of rescans and checks', { timeout: 120_000 }, async () => {
    await record('rescanRepository-success', RESCAN_REQUEST, rescanSteps());
    await record('rescanRepository-failure', RESCAN_REQUEST, {
      ...rescanSteps(),
      readStoredVms: fails('RepositoryForeign'),
    });
    const reading = { ...rescanSteps(), readStoredVms: untilCancelled };
    await record('rescanRepository-cancelled', RESCAN_REQUEST, reading, cancelledAt('readStoredVms'));
    await record('checkRepository-success', RESCAN_REQUEST, checkSteps());
    await record('checkRepository-failure', RESCAN_REQUEST, {
      ...checkSteps(),
      verifyStored: fails('RepositoryForeign'),
    });
    const comparing = { ...checkSteps(), verifyStored: untilCancelled };
    await record('checkRepository-cancelled', RESCAN_REQUEST, comparing, cancelledAt('verifyStored'));
    const byTheClock = { ...checkSteps(), ...scheduleSteps('scheduledCheck') };
    await record('scheduledCheck-success', SCHEDULE_REQUEST, byTheClock);
    await record('scheduledCheck-failure', SCHEDULE_REQUEST, {
      ...byTheClock,
      verifyStored: fails('RepositoryForeign'),
    });
    const held = { ...byTheClock, verifyStored: untilCancelled };
    await record('scheduledCheck-cancelled', SCHEDULE_REQUEST, held, cancelledAt('verifyStored'));
  });

  it('records those of reclaim', { timeout: 120_000 }, async () => {
    await record('reclaimOrphans-success', {}, reclaimSteps());
    await record('reclaimOrphans-failure', {}, { ...reclaimSteps(), findOrphans: fails('TemporalUnreachable') });
    const looking = { ...reclaimSteps(), reclaimLeftovers: untilCancelled };
    await record('reclaimOrphans-cancelled', {}, looking, cancelledAt('reclaimLeftovers'));
  });
});
