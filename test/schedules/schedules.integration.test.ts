import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { ShownSchedule } from '../../operations/schedules.ts';
import type { Job } from '../../operations/jobs.ts';
import type { Report } from '../../schemas/report.ts';
import type { ScheduleOutcome, ScheduleRun, ScheduleRunSummary } from '../../schemas/schedule.ts';
import type { Guest } from '../support/guest.ts';
import { signalProcess, until } from '../support/processes.ts';
import { expectStored, MiB, PatternedDisk, startTestBed, type TestBed } from '../support/test-bed.ts';

type Shown = ShownSchedule & { runs: ScheduleRun[]; daylightSaving: string[] };

describe('schedules', () => {
  let bed: TestBed;
  const guests: Guest[] = [];
  const disks = [new PatternedDisk(0, 8 * MiB), new PatternedDisk(0, 8 * MiB)];
  const json = <T>(...args: string[]): Promise<T> => bed.holdfast.json<T>(...args);
  const backups = (vm: string) => json<Backup[]>('backup', 'ls', vm);
  const show = (name: string) => json<Shown>('schedule', 'show', name);
  beforeAll(async () => {
    bed = await startTestBed('kvm-schedules');
    for (const [number, name] of ['one', 'two'].entries()) {
      const guest = await bed.guest({
        name,
        disks: [{ target: 'vda', sizeBytes: 8 * MiB, format: 'qcow2', fs: 'none' }],
      });
      await bed.host.libvirt.create(guest.dom);
      await disks[number]!.write(guest, 0, MiB, 0x11 + number);
      guests.push(guest);
    }
    await json('offering', 'create', 'gold', '--quiesce', 'none');
    await json('vm', 'ls');
    for (const { name } of guests) await json('offering', 'assign', 'gold', name);
  });
  afterAll(async () => {
    await bed[Symbol.asyncDispose]();
  });

  it('back up every VM of an offering by the clock, in one line with those taken by hand', async () => {
    const manual = await bed.take('one', { offering: 'gold' });
    const made = await json<Shown>('schedule', 'create', '--offering', 'gold', '--every', '5s', '--catch-up', '10s');
    expect(made).toMatchObject({ name: 'gold', state: 'active', longestGapSeconds: 5 });
    expect(made.next).toHaveLength(3);
    await until(
      'each VM has two backups of the schedule',
      async () => {
        const taken = await Promise.all(guests.map(({ name }) => backups(name)));
        return taken.every((of) => of.filter(({ state }) => state === 'BackedUp').length >= 3);
      },
      { timeoutMs: 120_000 },
    );
    await json('schedule', 'pause', 'gold', '--note', 'enough');
    await until('no run goes on', async () => (await show('gold')).vms.every(({ state }) => state !== 'running'), {
      timeoutMs: 60_000,
    });
    const [one, two] = await Promise.all(guests.map(({ name }) => backups(name)));
    expect(one!.at(-1)).toMatchObject({ id: manual.id, type: 'full' });
    expect(one!.at(-2)).toMatchObject({ type: 'incremental', parentId: manual.id });
    expect(two!.at(-1)).toMatchObject({ type: 'full', position: 1 });
    expect(two!.at(-2)).toMatchObject({ type: 'incremental', position: 2 });
    for (const [number, of] of [one!, two!].entries()) {
      await expectStored(bed.holdfast, of[0]!, { vda: disks[number]! });
    }
    const shown = await show('gold');
    expect(shown.vms.map(({ vm, state }) => [vm.name, state])).toEqual([
      ['one', 'done'],
      ['two', 'done'],
    ]);
  });

  it('tell when they run next, in local time and UTC, what daylight saving means, and the rules', async () => {
    const create = ['schedule', 'create', 'at-night', '--vm', 'one', '--at', '02:30', '--timezone', 'Europe/Berlin'];
    const { stdout, exitCode } = await bed.holdfast.cli(...create, '--window', '4h', '--jitter', '10m');
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/^schedule at-night: backups of VM one, every day at 02:30 Europe\/Berlin$/m);
    expect(stdout.match(/^ {2}\d{4}-\d\d-\d\d 02:3\d:\d\d Europe\/Berlin \(0[01]:3\d:\d\d UTC\)$/gm)).toHaveLength(3);
    expect(stdout).toMatch(/^daylight saving: .* 02:30 does not exist that day: no run$/m);
    expect(stdout).toMatch(/^daylight saving: .* 02:30 comes twice: runs once, the second time$/m);
    for (const rule of ['catch-up', 'overlap', 'window']) expect(stdout).toContain(`\n${rule}: `);
    const shown = await show('at-night');
    expect(shown).toMatchObject({ state: 'active', windowSeconds: 14_400, jitterSeconds: 600, vms: [], lastRun: null });
    expect(shown.longestGapSeconds).toBeGreaterThanOrEqual(86_400);

    const changed = await json<Shown>('schedule', 'update', 'at-night', '--at', '3:30', '--window', 'none');
    expect(changed).toMatchObject({ windowSeconds: null, timezone: 'Europe/Berlin', daylightSaving: [] });
    expect(changed.timing).toEqual({ kind: 'at', times: ['03:30'], on: [], dayOfMonth: null });
    await json('schedule', 'delete', 'at-night');
    expect((await json<Shown[]>('schedule', 'ls')).map(({ name }) => name)).toEqual(['gold']);
  });

  it.each([
    [['--vm', 'one', '--at', '02:30', '--timezone', 'Mars/Base'], 2, '--timezone'],
    [['--vm', 'one', '--cron', '61 * * * *'], 1, '--cron'],
    [['--vm', 'nobody', '--every', '1h'], 1, 'nobody'],
    [['--offering', 'lead', '--every', '1h'], 1, '--offering'],
  ])('refuse %j and name the flag', async (flags, exitCode, named) => {
    const refused = await bed.holdfast.cli('schedule', 'create', 'wrong', ...flags, '--json');
    expect(refused.exitCode).toBe(exitCode);
    expect((JSON.parse(refused.stderr) as { error: { message: string } }).error.message).toContain(named);
    expect((await json<Shown[]>('schedule', 'ls')).map(({ name }) => name)).not.toContain('wrong');
  });

  it('record what a pause prevents as missed, with its note, and skip VMs that are still at work', async () => {
    await until(
      'runs were missed',
      async () => (await show('gold')).runs.filter(({ state }) => state === 'missed').length > 1,
      {
        timeoutMs: 60_000,
        everyMs: 1000,
      },
    );
    const paused = await show('gold');
    expect(paused).toMatchObject({
      state: 'paused',
      pauseNote: 'enough',
      lastRun: { state: 'missed', reason: 'paused: enough' },
    });
    expect((await bed.holdfast.cli('schedule', 'ls')).stdout).toContain('PAUSED: enough');

    const host = bed.holdfast.processes()['host']!;
    signalProcess(host, 'SIGSTOP'); // backups that begin now stand still
    try {
      await json('schedule', 'resume', 'gold');
      await until(
        'both VMs were skipped',
        async () => (await show('gold')).vms.every(({ state }) => state === 'skipped'),
        {
          timeoutMs: 60_000,
          everyMs: 1000,
        },
      );
      await json('schedule', 'pause', 'gold', '--note', 'enough');
    } finally {
      signalProcess(host, 'SIGCONT');
    }
    expect((await show('gold')).vms.map(({ reason }) => reason)).toEqual(
      guests.map(() => 'its former scheduled backup still runs'),
    );
    await until(
      'the backups that stood still are done',
      async () => (await json<Job[]>('job', 'ls', '--running')).length === 0,
      {
        timeoutMs: 120_000,
        everyMs: 1000,
      },
    );
    for (const { name } of guests) expect((await backups(name))[0]).toMatchObject({ state: 'BackedUp' });
  });

  it('prove VMs from their backups, and each only when it is due', async () => {
    await json('schedule', 'create', 'proof', '--rehearsal', '--every', '24h', '--steps', 'hash', '--max-vms', '1');
    for (const name of ['one', 'two']) {
      const proved = await json<ScheduleRunSummary & { vms: ScheduleOutcome[] }>('schedule', 'run', 'proof');
      expect(proved).toMatchObject({ done: 1, vms: [{ vm: { name }, state: 'done' }] });
      const [newest] = await backups(name);
      expect(newest).toMatchObject({ id: proved.vms[0]!.backupId, validation: 'Valid' });
    }
    expect(await json('schedule', 'run', 'proof')).toMatchObject({ done: 0, vms: [] });
  });

  it('go on with the other VMs when one is gone, and the report tells', async () => {
    const gone = guests[1]!;
    await bed.host.libvirt.destroy(gone.dom);
    await bed.host.libvirt.undefine(gone.dom, { checkpointsMetadata: true });
    const ran = await bed.holdfast.cli('schedule', 'run', 'gold', '--json');
    expect(ran.exitCode).toBe(1);
    const { vms } = JSON.parse(ran.stdout) as { vms: ScheduleOutcome[] };
    expect(vms.map(({ vm, state }) => `${vm.name} ${state}`)).toEqual(['one done', 'two failed']);
    expect(vms[1]!.reason).toContain('VmNotFound');

    const report = await json<Report>('report', '--since', '1h', '--promise', '1s');
    expect(report.failures.map(({ what, vm }) => `${what} ${vm?.name ?? ''}`)).toContain('backup by schedule gold two');
    expect(report.notRun.map(({ state, reason }) => `${state} ${reason}`)).toEqual(
      expect.arrayContaining(['missed paused: enough', 'skipped its former scheduled backup still runs']),
    );
    expect(report.backups.filter(({ requestedBy }) => requestedBy === 'schedule gold').length).toBeGreaterThan(4);
    expect(report.late.map(({ vm }) => vm.name)).toEqual(['one', 'two']);
    expect(report.validations.map(({ state }) => state)).toEqual(['Valid', 'Valid']);
    const { stdout } = await bed.holdfast.cli('report', '--since', '1h');
    expect(stdout).toMatch(/^Holdfast: \d+ failures?, \d+ not run/);
    expect(await schedulesOf(bed)).toEqual(['schedule-gold', 'schedule-proof']);
  });
});

/** What Temporal itself has of them. */
async function schedulesOf({ holdfast }: TestBed): Promise<string[]> {
  const client = await holdfast.client();
  const ids: string[] = [];
  for await (const { scheduleId } of client.schedule.list()) ids.push(scheduleId);
  return ids.filter((id) => id.startsWith('schedule-')).toSorted();
}
