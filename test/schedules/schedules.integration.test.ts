import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Backup } from '../../schemas/backup.ts';
import type { ShownSchedule } from '../../operations/schedules.ts';
import type { ScheduleRun } from '../../schemas/schedule.ts';
import type { Guest } from '../support/guest.ts';
import { until } from '../support/processes.ts';
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
});
