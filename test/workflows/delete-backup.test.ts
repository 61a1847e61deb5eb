import { describe, expect, it } from 'vitest';
import type { VmRetention } from '../../workflows/apply-retention.ts';
import type { ReclaimedOrphans } from '../../workflows/reclaim-orphans.ts';
import {
  CHAIN,
  DELETE_REQUEST,
  deletePlanOf,
  deleteSteps,
  judgedVm,
  reclaimSteps,
  retentionSteps,
} from './delete-fakes.ts';
import { VM } from './fakes.ts';
import { failureOf, fails, recorded, workflowSuite, type FakeActivities } from './workflow-suite.ts';

const ADMITTED = ['planDelete', 'requestAdmission', 'planDelete', 'seesRepository'];
const REMOVED = ['beginExpunge', 'deleteFiles', 'backupExpunged'];

describe('deletes, retention and reclaim', () => {
  const suite = workflowSuite();

  it('deletes leaf to root, each out of sight before its files go', async () => {
    const { activities, calls } = recorded(deleteSteps());
    await suite.run('deleteBackup', DELETE_REQUEST, activities);
    expect(calls).toEqual([...ADMITTED, ...REMOVED, ...REMOVED, ...REMOVED, 'releaseAdmission']);
  });

  it('touches nothing in a dry run', async () => {
    const { activities, calls } = recorded(deleteSteps());
    const plan = await suite.run('deleteBackup', { ...DELETE_REQUEST, dryRun: true }, activities);
    expect(plan).toEqual(deletePlanOf(CHAIN[2], CHAIN.toReversed()));
    expect(calls).toEqual(['planDelete']);
  });

  it('stops where a file cannot be removed, and says so', async () => {
    let removed = 0;
    const steps = {
      ...deleteSteps(),
      deleteFiles: () => (++removed === 1 ? Promise.resolve() : fails('RepositoryReadOnly')()),
    };
    const { activities, calls } = recorded(steps);
    const { type } = await failureOf(suite.run('deleteBackup', DELETE_REQUEST, activities));
    expect(type).toBe('RepositoryReadOnly');
    const stopped = ['beginExpunge', 'deleteFiles', 'isPublished', 'deleteStopped', 'releaseAdmission'];
    expect(calls).toEqual([...ADMITTED, ...REMOVED, ...stopped]);
  });

  it('retention deletes what it lets go, asks again once admitted, and tells', async () => {
    const asked: string[] = [];
    const { activities, calls } = recorded({
      ...retentionSteps(),
      retentionLetsGo: (...[, id]: [string, string]) => Promise.resolve(asked.push(id) > 0),
    });
    const result = await suite.run<VmRetention>('applyRetention', { vm: VM.name }, activities);
    expect(asked).toEqual([CHAIN[2]]); // the others went with it
    expect(result).toMatchObject({ keptCount: 1, freedBytes: 30, dryRun: false });
    expect(result.removed.map(({ id, outcome }) => [id, outcome])).toEqual(
      CHAIN.toReversed().map((id) => [id, 'deleted']),
    );
    expect(calls.slice(-2)).toEqual(['releaseAdmission', 'recordRetention']);
  });

  it('retention leaves alone what is wanted again by then', async () => {
    const { activities, calls } = recorded({ ...retentionSteps(), retentionLetsGo: () => Promise.resolve(false) });
    expect(await suite.run<VmRetention>('applyRetention', { vm: VM.name }, activities)).toMatchObject({ removed: [] });
    expect(calls).not.toContain('deleteFiles');
    expect(calls).not.toContain('hideBackup');
  });

  it('retention of all notes what fails of one VM and ends', async () => {
    const others = ['7', '8', '9'].map((digit) => ({ uuid: `${digit}${VM.uuid.slice(1)}`, name: `web-${digit}` }));
    const steps: FakeActivities = {
      ...retentionSteps(),
      vmsWithRetention: (...[after]: [string | null]) => Promise.resolve(after === null ? [VM, ...others] : []),
      judgeRetention: (vm: string) => (vm === others[0]?.uuid ? fails('NoRetention')() : Promise.resolve(judgedVm())),
    };
    expect(await suite.run('applyRetention', {}, steps)).toMatchObject({
      vms: 4,
      kept: 3,
      removed: 9,
      freedBytes: 90,
      problems: [{ vm: 'web-7', type: 'NoRetention' }],
      problemCount: 1,
    });
  });

  it('reclaim lists what lies on hosts before it asks what goes on', async () => {
    const { activities, calls } = recorded(reclaimSteps());
    const { found, problems } = await suite.run<ReclaimedOrphans>('reclaimOrphans', {}, activities);
    expect(problems).toEqual([]);
    expect(found).toHaveLength(6);
    expect(calls.slice(0, 4)).toEqual(['hostsToSearch', 'listLeftovers', 'findOrphans', 'reclaimLeftovers']);
    for (const step of ['removeStrays', 'removeOwnCheckpoints', 'deleteFiles']) expect(calls).toContain(step);
  });

  it('reclaim only tells in a dry run, and removes nothing of a busy VM', async () => {
    const removing = ['removeStrays', 'removeOwnCheckpoints', 'deleteFiles', 'recordFailure'];
    const dry = recorded(reclaimSteps());
    expect((await suite.run<ReclaimedOrphans>('reclaimOrphans', { dryRun: true }, dry.activities)).found).toHaveLength(
      6,
    );
    for (const step of removing) expect(dry.calls).not.toContain(step);
    const busy = recorded({
      ...reclaimSteps(),
      requestAdmission: () => Promise.resolve({ granted: false as const, waitingFor: 'VM web-1', blockers: [] }),
    });
    await suite.run('reclaimOrphans', {}, busy.activities);
    for (const step of removing.slice(0, 3)) expect(busy.calls).not.toContain(step);
  });
});
