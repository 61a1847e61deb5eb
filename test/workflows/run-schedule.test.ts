import type { WorkflowHandle } from '@temporalio/client';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createMissedRuns } from '../../activities/control/missed-runs.ts';
import type { SentReport } from '../../workflows/send-report.ts';
import { createScheduleRuns } from '../../activities/control/schedule-runs.ts';
import { createReports } from '../../activities/control/reports.ts';
import type { ControlDependencies } from '../../activities/control/dependencies.ts';
import type { Catalog } from '../../catalog/contract.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { offering } from '../../schemas/catalog.ts';
import type { ReportSettings } from '../../schemas/configuration.ts';
import type { Schedule, ScheduleOutcome, ScheduleRunSummary, ScheduleTask } from '../../schemas/schedule.ts';
import { CONTROL_QUEUE } from '../../schemas/queues.ts';
import { createServer } from 'node:http';
import { completed, newBackup } from '../catalog/records.ts';
import { until } from '../support/processes.ts';
import { failureOf, workflowSuite, type FakeActivities } from './workflow-suite.ts';

const uuid = (first: string, number: number): string =>
  `${first}0000000-0000-4000-8000-${String(number).padStart(12, '0')}`;
const BACKUP: ScheduleTask = { kind: 'backup', offering: 'gold', vms: [], full: false, isolated: false };

describe('runSchedule', () => {
  const suite = workflowSuite({ workflowsPath: join(import.meta.dirname, 'fixtures', 'scheduled.ts') });
  let catalog: Catalog;
  let calls: string[];
  let mostAtOnce: number;
  let report: ReportSettings = {};
  beforeAll(async () => {
    catalog = await openCatalog('sqlite::memory:');
    for (const name of ['gold', 'few', 'slow', 'proof']) await catalog.offerings.upsert(offering.parse({ name }));
  });
  afterAll(async () => await catalog[Symbol.asyncDispose]());

  const activities = (): FakeActivities => {
    const dependencies: ControlDependencies = {
      catalog,
      runs: { isRunning: () => Promise.resolve(true), signalGranted: () => Promise.resolve() },
      clock: {
        look: () => Promise.resolve(undefined),
        matching: () => Promise.resolve([]),
        started: () => Promise.resolve([]),
      },
      report,
      heartbeatSeconds: 5,
    };
    const steps = {
      ...createScheduleRuns(dependencies),
      ...createMissedRuns(dependencies),
      ...createReports(dependencies),
    };
    calls = [];
    let atOnce = 0;
    mostAtOnce = 0;
    return {
      ...steps,
      beginScheduleRun: async (...given: Parameters<typeof steps.beginScheduleRun>) => {
        calls.push('begin');
        return await steps.beginScheduleRun(...given);
      },
      vmStarted: async (...given: Parameters<typeof steps.vmStarted>) => {
        atOnce += 1;
        mostAtOnce = Math.max(mostAtOnce, atOnce);
        await steps.vmStarted(...given);
      },
      vmEnded: async (...given: Parameters<typeof steps.vmEnded>) => {
        atOnce -= 1;
        await steps.vmEnded(...given);
      },
    };
  };
  const scheduled = async (name: string, task: ScheduleTask, more: Partial<Schedule> = {}): Promise<void> => {
    await catalog.schedules.put({
      name,
      task,
      timing: { kind: 'every', everySeconds: 3600 },
      timezone: 'UTC',
      windowSeconds: null,
      jitterSeconds: 0,
      catchUpSeconds: 3600,
      overlap: 'skip',
      parallel: 10,
      longestGapSeconds: 3600,
      note: null,
      ...more,
    });
  };
  const vm = async (id: string, name: string, protectedBy: string): Promise<void> => {
    await catalog.vms.recordSighting(
      { uuid: id, name, host: 'kvm-1', power: 'running', disks: [] },
      '2026-11-21T12:00:00.000Z',
    );
    await catalog.vms.setOffering(id, protectedBy);
  };
  const told = (outcomes: ScheduleOutcome[]) =>
    outcomes.map(({ vm: { name }, state, reason }) => `${name} ${state}${reason === null ? '' : `: ${reason}`}`);

  it('has every VM backed up, so many at once, across several histories', { timeout: 120_000 }, async () => {
    const vms = Number(process.env['HOLDFAST_TEST_VMS'] ?? 60);
    for (let n = 0; n < vms; n += 1) await vm(uuid('a', n), `vm-${n}`, 'gold');
    await scheduled('nightly', BACKUP);
    const request = { schedule: 'nightly', vmsPerHistory: Math.ceil(vms / 2.5) };
    const summary = await suite.run<ScheduleRunSummary>('runSchedule', request, activities());
    expect(summary).toMatchObject({ schedule: 'nightly', done: vms, failed: 0, skipped: 0, missed: 0 });
    expect(calls).toEqual(['begin', 'begin', 'begin']); // three histories
    expect(mostAtOnce).toBe(10);
    const outcomes = await catalog.schedules.outcomes(summary.runId);
    expect(outcomes.map(({ backupId }) => backupId)).toEqual(
      outcomes.map(({ vm: { uuid: id } }) => `backup-of-${id ?? ''}`),
    );
    expect(await catalog.schedules.findRun(summary.runId)).toMatchObject({ state: 'done', reason: null });
  });

  it('notes what became of each VM, and one failure stops no other', { timeout: 60_000 }, async () => {
    await vm(uuid('f', 1), 'full-disk', 'few');
    await vm(uuid('a', 901), 'well', 'few');
    await vm(uuid('e', 1), 'late', 'few');
    const vms = ['full-disk', 'nobody', 'well', 'late', uuid('a', 901)];
    await scheduled('mixed', { ...BACKUP, offering: null, vms }, { windowSeconds: 3600 });
    const summary = await suite.run<ScheduleRunSummary>('runSchedule', { schedule: 'mixed' }, activities());
    const ends = new Date(Date.parse(summary.scheduledAt) + 3_600_000).toISOString();
    expect(told(await catalog.schedules.outcomes(summary.runId))).toEqual([
      'full-disk failed: RepositoryFull: no room',
      'nobody failed: VM nobody is not known; see: holdfast vm ls',
      'well done',
      `late missed: WindowClosed: waited until ${ends}`,
    ]);
    expect(await catalog.schedules.findRun(summary.runId)).toMatchObject({
      state: 'failed',
      reason: '1 done, 2 failed, 1 missed',
    });
  });

  it(
    'skips a VM whose former scheduled backup still runs, and waits for one of them with buffer-one',
    {
      timeout: 60_000,
    },
    async () => {
      await vm(uuid('d', 1), 'slow', 'slow');
      await vm(uuid('a', 902), 'quick', 'slow');
      await scheduled('hourly', { ...BACKUP, offering: 'slow' });
      const slowRuns = async (): Promise<boolean> => {
        const last = await catalog.schedules.lastOutcomes('hourly');
        const states = Object.fromEntries(last.map(({ vm: { name }, state }) => [name, state]));
        return states['slow'] === 'running' && states['quick'] === 'done';
      };
      await suite.run('runSchedule', { schedule: 'hourly' }, activities(), async (first, client) => {
        const again = async (): Promise<WorkflowHandle> =>
          await client.workflow.start('runSchedule', {
            taskQueue: CONTROL_QUEUE,
            workflowId: randomUUID(),
            args: [{ schedule: 'hourly' }],
          });
        const skips = async (): Promise<void> => {
          const { runId } = (await (await again()).result()) as ScheduleRunSummary;
          expect(told(await catalog.schedules.outcomes(runId))).toEqual([
            'quick done',
            'slow skipped: its former scheduled backup still runs',
          ]);
        };
        await until('the slow VM is at work', slowRuns);
        await skips();
        await scheduled('hourly', { ...BACKUP, offering: 'slow' }, { overlap: 'buffer-one' });
        const buffered = await again();
        await until('a second backup of the slow VM waits', slowRuns);
        await skips();
        for (const handle of [buffered, first]) {
          await handle.cancel();
          expect(await failureOf(handle.result())).toMatchObject({ type: 'Cancelled' });
        }
      });
      const [cancelled] = (await catalog.schedules.runs({ schedule: 'hourly' })).toReversed();
      expect(cancelled).toMatchObject({ state: 'failed', reason: expect.stringContaining('cancelled') as string });
      expect(told(await catalog.schedules.outcomes(cancelled!.id))).toEqual([
        'quick done',
        'slow failed: Cancelled: cancelled by request',
      ]);
    },
  );

  it(
    'lets no turn come after the window’s end, and notes those that waited as missed',
    { timeout: 60_000 },
    async () => {
      for (let n = 910; n < 914; n += 1) await vm(uuid('a', n), `w-${n}`, 'proof');
      await vm(uuid('d', 2), 'w-1-slow', 'proof');
      await scheduled('short', { ...BACKUP, offering: 'proof' }, { windowSeconds: 4, parallel: 1 });
      await suite.run('runSchedule', { schedule: 'short' }, activities(), async (handle) => {
        const outcomes = async () =>
          await catalog.schedules.outcomes((await catalog.schedules.runs({ schedule: 'short' }))[0]?.id ?? '');
        const missed = async () => (await outcomes()).filter(({ state }) => state === 'missed');
        await until('the window is over', async () => (await missed()).length > 0);
        await handle.cancel();
        await failureOf(handle.result());
        expect((await outcomes()).map(({ vm: { name }, state }) => `${name} ${state}`)).toEqual([
          'w-1-slow failed',
          'w-910 missed',
          'w-911 missed',
          'w-912 missed',
          'w-913 missed',
        ]);
        expect((await missed())[0]?.reason).toMatch(/^the window of schedule short ended at .*Z before its turn came$/);
      });
    },
  );

  it('fails at once when the schedule is not known any more', { timeout: 60_000 }, async () => {
    const failed = await failureOf(suite.run('runSchedule', { schedule: 'deleted' }, activities()));
    expect(failed.message).toContain('schedule deleted is not known');
  });

  it('proves VMs from their backups, within a number of VMs', { timeout: 60_000 }, async () => {
    const ids = ['a', 'e', 'f'].map((first) => uuid(first, 77));
    for (const [index, id] of ids.entries()) {
      const vmUuid = uuid('a', 920 + index);
      await vm(vmUuid, `p-${index}`, 'few');
      await catalog.backups.create({ ...newBackup(), id, vmUuid, vmName: `p-${index}`, chainId: id });
      await catalog.backups.complete(completed(id));
    }
    const task: ScheduleTask = {
      kind: 'rehearsal',
      offering: null,
      vms: ['p-0', 'p-1', 'p-2', 'w-910'],
      everySeconds: 86_400,
      budgetSeconds: null,
      maxVms: null,
      steps: ['hash', 'boot'],
    };
    await scheduled('proof', task);
    const all = await suite.run<ScheduleRunSummary>('rehearse', { schedule: 'proof' }, activities());
    expect(told(await catalog.schedules.outcomes(all.runId))).toEqual([
      'w-910 failed: it has no good backup to be proved from',
      'p-0 done',
      'p-1 failed: UnableToValidate: hash: as told; boot: as told',
      'p-2 failed: NotValid: hash: as told; boot: as told',
    ]);
    await scheduled('proof', { ...task, maxVms: 1 });
    const one = await suite.run<ScheduleRunSummary>('rehearse', { schedule: 'proof' }, activities());
    expect(one).toMatchObject({ done: 1, failed: 1 });
  });

  it('sends a report again after an answer that may pass, with the same key', { timeout: 60_000 }, async () => {
    const keys: unknown[] = [];
    const server = createServer((request, response) => {
      keys.push(request.headers['idempotency-key']);
      request.resume();
      response.writeHead(keys.length === 1 ? 500 : 200).end();
    });
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const address = server.address();
    const task: ScheduleTask = {
      kind: 'report',
      sinceSeconds: 3600,
      promiseSeconds: null,
      webhook: true,
      mailTo: ['ops@example.org'],
    };
    try {
      report = { webhook: `http://127.0.0.1:${typeof address === 'object' ? (address?.port ?? 0) : 0}/secret` };
      await scheduled('morning', { ...task, mailTo: [] });
      const sent = await suite.run<SentReport>('sendReport', { schedule: 'morning' }, activities());
      expect(sent.sentTo).toEqual(['webhook']);
      expect(keys).toEqual([sent.reportId, sent.reportId]);
      expect(await catalog.schedules.findRun(sent.reportId)).toMatchObject({ state: 'done' });
      await scheduled('morning', task); // one that cannot be delivered keeps none of the others
      const failed = await failureOf(suite.run('sendReport', { schedule: 'morning' }, activities()));
      expect(failed).toMatchObject({ type: 'InvalidRequest', message: expect.stringContaining('SMTP') as string });
      expect(keys).toHaveLength(3);
      expect((await catalog.schedules.runs({ schedule: 'morning' }))[0]).toMatchObject({ state: 'failed' });
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});
