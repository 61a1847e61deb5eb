import { describe, expect, it } from 'vitest';
import type { Catalog } from '../../catalog/contract.ts';
import type { Schedule, ScheduleRun } from '../../schemas/schedule.ts';
import { after, completed, newBackup, T0 } from './records.ts';

const NIGHTLY: Schedule = {
  name: 'nightly',
  task: { kind: 'backup', offering: 'gold', vms: [], full: false, isolated: false },
  timing: { kind: 'at', times: ['02:30'], on: [], dayOfMonth: null },
  timezone: 'Europe/Berlin',
  windowSeconds: 14_400,
  jitterSeconds: 0,
  catchUpSeconds: 7200,
  overlap: 'skip',
  parallel: 50,
  longestGapSeconds: null,
  note: null,
};
const run = (id: string, more: Partial<ScheduleRun> = {}): ScheduleRun => ({
  id,
  schedule: 'nightly',
  kind: 'backup',
  scheduledAt: T0,
  startedAt: T0,
  endedAt: null,
  workflowId: `runSchedule-${id}`,
  state: 'running',
  reason: null,
  ...more,
});
const vm = (name: string, uuid: string | null = `uuid-${name}`) =>
  ({ vm: { uuid, name }, state: 'pending', reason: null, backupId: null }) as const;

/** What every catalog keeps of schedules. */
export function scheduleSuite(openNew: () => Promise<Catalog>): void {
  describe('schedules', () => {
    it('are put, changed, found and removed', async () => {
      await using catalog = await openNew();
      const { createdAt } = await catalog.schedules.put(NIGHTLY);
      await catalog.schedules.put({ ...NIGHTLY, note: 'changed' });
      await catalog.schedules.setCheckedUntil('nightly', T0);
      expect(await catalog.schedules.list()).toEqual([
        { schedule: { ...NIGHTLY, note: 'changed' }, createdAt, checkedUntil: T0 },
      ]);
      await catalog.schedules.remove('nightly');
      await catalog.schedules.remove('nightly');
      expect(await catalog.schedules.find('nightly')).toBeUndefined();
    });

    it('note a run once, with its VMs in the order of their turns', async () => {
      await using catalog = await openNew();
      const many = Array.from({ length: 1_100 }, (_, n) => vm(`vm-${n}`));
      await catalog.schedules.beginRun(run('a'), many);
      await catalog.schedules.beginRun(run('a'), [vm('other')]);
      const page = await catalog.schedules.outcomes('a', { states: ['pending'], after: 9, limit: 2 });
      expect(page.map(({ vm: { name }, position }) => [name, position])).toEqual([
        ['vm-10', 10],
        ['vm-11', 11],
      ]);
      await catalog.schedules.setOutcome('a', 10, { state: 'done', backupId: 'b', endedAt: T0 });
      await catalog.schedules.settlePending('a', 'missed', 'too late', after(60));
      expect(await catalog.schedules.countOutcomes('a')).toEqual({ done: 1, missed: 1_099 });
      expect((await catalog.schedules.outcomes('a', { states: ['done'] }))[0]).toMatchObject({
        schedule: 'nightly',
        scheduledAt: T0,
        backupId: 'b',
        endedAt: T0,
      });
    });

    it('note a missed run once, and not where there was one; a run that begins after all is missed no more', async () => {
      await using catalog = await openNew();
      const missed = run('m', { startedAt: null, workflowId: null, state: 'missed', reason: 'paused' });
      expect(await catalog.schedules.noteMissed(missed)).toBe(true);
      expect(await catalog.schedules.noteMissed({ ...missed, id: 'n' })).toBe(false);
      await catalog.schedules.beginRun(run('late'), []);
      expect((await catalog.schedules.runs()).map(({ id }) => id)).toEqual(['late']);
      expect(await catalog.schedules.noteMissed(missed)).toBe(false);
      await catalog.schedules.endRun('late', 'done', null, after(5));
      await catalog.schedules.endRun('late', 'failed', 'twice', after(9));
      expect(await catalog.schedules.findRun('late')).toMatchObject({ state: 'done', endedAt: after(5) });
    });

    it('tell the last that is known of each VM, and forget what is old', async () => {
      await using catalog = await openNew();
      await catalog.schedules.beginRun(run('old'), [vm('a'), vm('b'), vm('gone', null)]);
      await catalog.schedules.beginRun(run('new', { scheduledAt: after(3600) }), [vm('a'), vm('b')]);
      await catalog.schedules.settlePending('old', 'done', '', T0);
      await catalog.schedules.setOutcome('new', 0, { state: 'failed', reason: 'RepositoryFull' });
      const told = (await catalog.schedules.lastOutcomes('nightly')).map((last) => [
        last.vm.name,
        last.state,
        last.runId,
      ]);
      expect(told).toEqual([
        ['a', 'failed', 'new'],
        ['b', 'done', 'old'], // its turn in the new run has not come
        ['gone', 'done', 'old'],
      ]);
      expect(await catalog.schedules.outcomesSince(after(1), ['failed', 'done'])).toHaveLength(1);
      await catalog.schedules.prune(after(1));
      expect((await catalog.schedules.runs({ since: T0, states: ['running'] })).map(({ id }) => id)).toEqual(['new']);
      expect(await catalog.schedules.outcomes('old')).toEqual([]);
    });

    it('know what speaks for and against each backup', async () => {
      await using catalog = await openNew();
      const given = newBackup();
      await catalog.backups.create(given);
      expect(await catalog.proofs.backups()).toEqual([]);
      await catalog.backups.complete(completed(given.id));
      expect(await catalog.proofs.backups()).toMatchObject([
        { id: given.id, isThere: true, isGood: true, testedAt: null, provedAt: null, isValid: false },
      ]);
      const result = {
        state: 'NotValid',
        steps: [{ step: 'boot', result: 'failed', detail: 'no agent', durationMs: 1 }],
        bootMs: null,
        validatedAt: after(60),
        host: 'kvm-1',
        screenshot: null,
      } as const;
      await catalog.validations.complete(given.id, { ...result, steps: [...result.steps] });
      expect(await catalog.proofs.backups()).toMatchObject([{ isGood: false, testedAt: after(60), provedAt: null }]);
      expect(await catalog.proofs.takenSince(after(-3600))).toMatchObject([{ id: given.id, stored: true, at: T0 }]);
      expect(await catalog.proofs.takenSince(after(3600))).toEqual([]);
    });
  });
}
