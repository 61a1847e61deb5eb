import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { buildReport, protectionOf } from '../../operations/build-report.ts';
import { reportSubject, reportText } from '../../operations/report-text.ts';
import type { ScheduleTask } from '../../schemas/schedule.ts';
import { completed, newBackup } from '../catalog/records.ts';

const UNTIL = '2026-11-21T12:00:00.000Z';
const hoursAgo = (hours: number): string => new Date(Date.parse(UNTIL) - hours * 3_600_000).toISOString();
const uuidOf = (name: string): string =>
  `6f1c1e0e-57a4-4d55-9c0c-${Buffer.from(name).toString('hex').padStart(12, '0')}`;
const BACKUP: ScheduleTask = { kind: 'backup', offering: 'gold', vms: [], full: false, isolated: false };
const REHEARSAL: ScheduleTask = {
  kind: 'rehearsal',
  offering: null,
  vms: [],
  everySeconds: 30 * 86_400,
  budgetSeconds: null,
  maxVms: null,
  steps: ['boot'],
};

describe('protectionOf', () => {
  const vm = (offering: string | null) => [{ uuid: 'u', name: 'web-1', offering, lastSeenAt: null }];
  const hourly = (task: ScheduleTask, hours = 24) => ({ task, longestGapSeconds: hours * 3600 });
  const backup = (hours: number, more: { isGood?: boolean; provedAt?: string } = {}) => ({
    vm: { uuid: 'u', name: 'web-1' },
    instant: hoursAgo(hours),
    isGood: true,
    provedAt: null,
    bootMs: null,
    ...more,
  });
  const told = (...given: Parameters<typeof protectionOf>): string[] =>
    Object.entries(protectionOf(...given)).flatMap(([what, of]) => (of.length > 0 ? [what] : []));
  const request = { until: UNTIL, promiseSeconds: null };

  it.each([
    ['within twice the interval', vm('gold'), [hourly(BACKUP)], [backup(47)], ['unproved']],
    ['older than twice the interval', vm('gold'), [hourly(BACKUP)], [backup(49)], ['late', 'unproved']],
    [
      'the shortest interval of several',
      vm('gold'),
      [hourly(BACKUP, 168), hourly(BACKUP, 6)],
      [backup(13)],
      ['late', 'unproved'],
    ],
    [
      'a good one behind a bad one',
      vm('gold'),
      [hourly(BACKUP)],
      [backup(1, { isGood: false }), backup(49)],
      ['late', 'unproved'],
    ],
    ['none at all', vm('gold'), [hourly(BACKUP)], [], ['late', 'unproved']],
    ['another offering’s schedule', vm('silver'), [hourly(BACKUP)], [backup(1)], ['unproved', 'unscheduled']],
    ['an offering without a schedule, old backup', vm('gold'), [], [backup(900)], ['unproved', 'unscheduled']],
    ['an offering without a schedule, no backup', vm('gold'), [], [], ['late', 'unproved', 'unscheduled']],
    [
      'no offering, named by a schedule',
      vm(null),
      [hourly({ ...BACKUP, offering: null, vms: ['web-1'] })],
      [backup(1)],
      ['unproved'],
    ],
    [
      'no offering, named by its UUID',
      vm(null),
      [hourly({ ...BACKUP, offering: null, vms: ['U'] })],
      [backup(1)],
      ['unproved'],
    ],
    ['neither offering nor schedule', vm(null), [hourly(BACKUP)], [backup(900)], ['unprotected']],
    [
      'proved within the rehearsal',
      vm('gold'),
      [hourly(BACKUP), hourly(REHEARSAL)],
      [backup(1, { provedAt: hoursAgo(600) })],
      ['proved'],
    ],
    [
      'proved before',
      vm('gold'),
      [hourly(BACKUP), hourly(REHEARSAL)],
      [backup(1, { provedAt: hoursAgo(800) })],
      ['unproved'],
    ],
    [
      'proved once, nothing promised',
      vm('gold'),
      [hourly(BACKUP)],
      [backup(1, { provedAt: hoursAgo(8000) })],
      ['proved'],
    ],
  ])('knows of %s', (_what, vms, schedules, backups, expected) => {
    expect(told(vms, schedules, backups, request).toSorted()).toEqual(expected.toSorted());
  });

  it('takes the promise that is asked for before the schedule’s', () => {
    const given = [vm('gold'), [hourly(BACKUP)], [backup(30)]] as const;
    expect(
      protectionOf(...((given as unknown as Parameters<typeof protectionOf>).slice(0, 3) as [never, never, never]), {
        until: UNTIL,
        promiseSeconds: 26 * 3600,
      }).late,
    ).toEqual([
      { vm: { uuid: 'u', name: 'web-1' }, lastGoodAt: hoursAgo(30), promiseSeconds: 26 * 3600, lastSeenAt: null },
    ]);
  });
});

describe('buildReport', () => {
  let catalog: Catalog;
  beforeEach(async () => {
    catalog = await openCatalog('sqlite::memory:');
  });
  afterEach(async () => await catalog[Symbol.asyncDispose]());
  const backup = async (name: string, age: number, failure?: { type: string; message: string }): Promise<string> => {
    const given = newBackup({ vmUuid: uuidOf(name), vmName: name });
    const { id } = given;
    await catalog.backups.create({ ...given, chainId: id, runId: `run-of-${id}` });
    if (failure === undefined) await catalog.backups.complete(completed(id, { instant: hoursAgo(age) }));
    else await catalog.backups.fail(id, 'Failed', failure);
    return id;
  };
  const now = (): string => new Date(Date.now() + 1000).toISOString();

  it('tells what ran, what failed and why, and what did not run', async () => {
    for (const [name, offering] of [
      ['well', 'gold'],
      ['broken', 'gold'],
      ['free', null],
    ] as const) {
      await catalog.vms.recordSighting({ uuid: uuidOf(name), name, host: 'kvm-1', power: 'running', disks: [] }, UNTIL);
      await catalog.vms.setOffering(uuidOf(name), offering);
    }
    const until = now();
    const since = new Date(Date.parse(until) - 86_400_000).toISOString();
    const stored = await backup('well', 0);
    await backup('well', 24 * 400);
    const failed = await backup('broken', 0, { type: 'RepositoryFull', message: 'no room for disk vda' });
    const run = {
      schedule: 'nightly',
      kind: 'backup',
      scheduledAt: new Date(Date.parse(until) - 60_000).toISOString(),
      startedAt: new Date(Date.parse(until) - 60_000).toISOString(),
      endedAt: null,
      workflowId: 'w',
      state: 'running',
      reason: null,
    } as const;
    await catalog.schedules.beginRun({ ...run, id: 'run' }, [
      { vm: { uuid: uuidOf('broken'), name: 'broken' }, state: 'pending', reason: null, backupId: null },
      {
        vm: { uuid: uuidOf('well'), name: 'well' },
        state: 'skipped',
        reason: 'its former one still runs',
        backupId: null,
      },
      { vm: { uuid: null, name: 'nobody' }, state: 'failed', reason: 'VM nobody is not known', backupId: null },
    ]);
    // Told by its backup already.
    await catalog.schedules.setOutcome('run', 0, { state: 'failed', reason: 'x', workflowRunId: `run-of-${failed}` });
    const missedAt = new Date(Date.parse(until) - 7_200_000).toISOString();
    await catalog.schedules.noteMissed({
      ...run,
      id: 'missed',
      scheduledAt: missedAt,
      startedAt: null,
      state: 'missed',
      reason: 'paused: storage',
    });
    await catalog.events.record({
      at: run.scheduledAt,
      kind: 'vm-restored',
      vmUuid: uuidOf('well'),
      message: 'VM well restored',
    });
    await catalog.events.record({
      at: run.scheduledAt,
      kind: 'restore-failed',
      vmUuid: uuidOf('well'),
      message: 'DestinationFull: no room',
    });
    await catalog.events.record({ at: '2026-01-01T00:00:00.000Z', kind: 'restore-failed', message: 'long ago' });

    const report = await buildReport(catalog, { id: 'r', since, until, promiseSeconds: null });
    expect(report.ok).toBe(false);
    expect(report.failures.map(({ what, vm, cause }) => `${what} ${vm?.name ?? '-'}: ${cause}`).toSorted()).toEqual([
      'backup broken: RepositoryFull: no room for disk vda',
      'backup by schedule nightly nobody: VM nobody is not known',
      'restore well: DestinationFull: no room',
    ]);
    expect(report.notRun.map(({ state, vm, reason }) => `${state} ${vm?.name ?? 'run'}: ${reason}`)).toEqual([
      'missed run: paused: storage',
      'skipped well: its former one still runs',
    ]);
    expect(report.late.map(({ vm, lastGoodAt }) => [vm.name, lastGoodAt])).toEqual([['broken', null]]);
    expect(report.unprotected.map(({ name }) => name)).toEqual(['free']);
    expect(report.unscheduled.map(({ name }) => name)).toEqual(['broken', 'well']);
    expect(report.sizes).toMatchObject({ repositories: [{ name: 'main', backups: 2 }] });
    expect(report.restores).toHaveLength(1);
    const text = reportText(report);
    expect(text).toContain('VMs that nothing protects (1)\n  free');
    expect(text).toContain('broken: no good backup');
    expect(reportSubject(report)).toBe('Holdfast: 3 failures, 2 not run, 1 VM without a good backup in time in 1d');
    expect(stored).toBeTruthy();
  });

  it('is well when nothing is wrong', async () => {
    const report = await buildReport(catalog, { id: 'r', since: hoursAgo(24), until: UNTIL, promiseSeconds: null });
    expect(report).toMatchObject({ ok: true, backups: [], failures: [] });
    expect(reportText(report)).toContain('Stored: 0 B, of it 0 B new');
  });
});
