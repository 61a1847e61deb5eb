import { Context } from '@temporalio/activity';
import { describe, expect, it } from 'vitest';
import type { RestoredVm } from '../../schemas/backup.ts';
import type { Consolidation } from '../../schemas/consolidation.ts';
import {
  consolidatedVm,
  consolidation,
  CONSOLIDATE_REQUEST,
  consolidationSteps,
  pullState,
  QUICK_REQUEST,
  quickRestoreSteps,
} from './quick-fakes.ts';
import { failureOf, fails, HOST, recorded, workflowSuite } from './workflow-suite.ts';

const UNTIL_CANCELLED = async (): Promise<never> => {
  const context = Context.current();
  const beat = setInterval(() => context.heartbeat(), 100);
  return await context.cancelled.finally(() => clearInterval(beat));
};

const suite = workflowSuite();

describe('a quick restore', { timeout: 60_000 }, () => {
  it('notes that the VM depends on the backup before it boots, and hands over what it was granted', async () => {
    const { activities, calls } = recorded(quickRestoreSteps());
    const result = await suite.run<RestoredVm>('restoreVm', QUICK_REQUEST, activities);
    expect(result.disks.map(({ verified }) => verified)).toEqual([false, false]);
    expect(result.consolidation).toMatch(/^consolidateDisks-web-1-[0-9a-f]{8}$/);
    const mine = calls.slice(calls.indexOf('prepareRestore')).filter((call) => !(call in consolidationSteps()));
    expect(mine).toEqual(['prepareRestore', 'noteQuickRestore', 'bootOnBackup', 'handOverToConsolidation']);
    expect(calls).not.toContain('releaseAdmission');
    expect(calls.indexOf('commitQuickRestore')).toBeGreaterThan(calls.indexOf('bootOnBackup'));
  });

  it('is undone, and forgotten only then, when the VM does not start', async () => {
    const { activities, calls } = recorded({ ...quickRestoreSteps(), bootOnBackup: fails('VmStartFailed') });
    expect((await failureOf(suite.run('restoreVm', QUICK_REQUEST, activities))).type).toBe('VmStartFailed');
    expect(calls.slice(-4)).toEqual([
      'undoQuickRestore',
      'forgetQuickRestore',
      'recordRestoreFailure',
      'releaseAdmission',
    ]);
  });

  it('stays known when it cannot be undone', async () => {
    const { activities, calls } = recorded({
      ...quickRestoreSteps(),
      bootOnBackup: fails('VmStartFailed'),
      undoQuickRestore: fails('HostRefused'),
    });
    await failureOf(suite.run('restoreVm', QUICK_REQUEST, activities));
    expect(calls).not.toContain('forgetQuickRestore');
  });
});

describe('consolidateDisks', { timeout: 60_000 }, () => {
  it('pulls and verifies, then tidies up, then gives back what it was granted', async () => {
    const { activities, calls } = recorded(
      consolidationSteps([pullState({ state: 'pulling' }), pullState({ state: 'done' })]),
    );
    await expect(suite.run('consolidateDisks', CONSOLIDATE_REQUEST, activities)).resolves.toEqual(consolidatedVm);
    expect(calls.filter((call) => call === 'watchPull')).toHaveLength(2);
    expect(calls.slice(-2)).toEqual(['finishConsolidation', 'commitConsolidation']);
    expect(calls).toContain('noteConsolidationVerified');
  });

  it('tells each look what is known, and ends one when there is a new rate', async () => {
    const looks: unknown[][] = [];
    const pulling = pullState({ state: 'pulling', paused: false });
    const { activities } = recorded({
      ...consolidationSteps(),
      watchPull: async (...parameters: never[]) => {
        const [{ rateBytesPerSecond }, , told] = parameters as unknown as [Consolidation, number, unknown];
        looks.push([rateBytesPerSecond, told]);
        if (looks.length === 1) return pulling;
        if (looks.length === 2) return await UNTIL_CANCELLED();
        return pullState({ state: 'done' });
      },
    });
    const run = suite.run('consolidateDisks', CONSOLIDATE_REQUEST, activities, async (handle) => {
      while (looks.length < 2) await new Promise((done) => setTimeout(done, 20));
      await handle.signal('setRate', 5);
      await handle.result();
    });
    await run;
    const told = { state: 'pulling', paused: false };
    expect(looks).toEqual([
      [null, null],
      [null, told],
      [5_000_000, told],
    ]);
  });

  it('asks every host before it takes a VM for gone', async () => {
    const { activities, calls } = recorded({
      ...consolidationSteps([pullState({ state: 'gone' })]),
      whereIsVm: () => Promise.resolve({ match: null, hinted: [], others: [HOST] }),
      findVm: () => Promise.resolve([]),
      recordAnswer: () => Promise.resolve(),
    });
    await expect(suite.run('consolidateDisks', CONSOLIDATE_REQUEST, activities)).resolves.toMatchObject({ disks: [] });
    expect(calls.slice(calls.indexOf('watchPull'))).toEqual(
      expect.arrayContaining(['whereIsVm', 'commitConsolidation']),
    );
    expect(calls).not.toContain('finishConsolidation');
  });

  it('pulls to the end what it can of a damaged backup, keeps the former disks, and fails', async () => {
    let kept: unknown;
    const { activities, calls } = recorded({
      ...consolidationSteps(),
      verifyChain: fails('IntegrityMismatch', 'full.qcow2: bytes 0 to 5 were altered'),
      finishConsolidation: (...[, keepFormer]: [unknown, boolean]) => {
        kept = keepFormer;
        return Promise.resolve();
      },
    });
    const { type, message } = await failureOf(suite.run('consolidateDisks', CONSOLIDATE_REQUEST, activities));
    expect(type).toBe('IntegrityMismatch');
    expect(message).toMatch(
      /VM web-1 was restored from a backup that is damaged: full.qcow2.*\/images\/vda.qcow2.former/,
    );
    expect(kept).toBe(true);
    expect(calls).toContain('noteConsolidationDamage');
  });

  it('gives up a damaged backup that cannot be pulled to its end, and leaves the VM marked', async () => {
    let state: unknown;
    const failing = pullState({ state: 'waiting', waitingFor: 'no', pullFailed: 'the pull ended with an error' });
    const { activities, calls } = recorded({
      ...consolidationSteps([failing]),
      verifyChain: fails('IntegrityMismatch'),
      stopConsolidation: (...[, stopped]: [unknown, unknown]) => {
        state = stopped;
        return Promise.resolve();
      },
    });
    expect((await failureOf(suite.run('consolidateDisks', CONSOLIDATE_REQUEST, activities))).type).toBe(
      'IntegrityMismatch',
    );
    expect(state).toBe('damaged');
    expect(calls).not.toContain('finishConsolidation');
  });

  it('stops the pull when it is cancelled, and says that the VM still depends on the backup', async () => {
    const { activities, calls } = recorded({ ...consolidationSteps(), watchPull: UNTIL_CANCELLED });
    const { type } = await failureOf(
      suite.run('consolidateDisks', CONSOLIDATE_REQUEST, activities, async (handle) => {
        while (!calls.includes('watchPull')) await new Promise((done) => setTimeout(done, 20));
        await handle.cancel();
        await handle.result();
      }),
    );
    expect(type).toBe('Cancelled');
    expect(calls.slice(-2)).toEqual(['stopPull', 'stopConsolidation']);
  });

  it('undoes a restore that was ended by force before its VM ran', async () => {
    const steps = consolidationSteps();
    const { activities, calls } = recorded({
      ...steps,
      beginConsolidation: async (...parameters: never[]) => ({
        ...((await steps.beginConsolidation?.(...parameters)) as object),
        consolidation: { ...consolidation, state: 'starting' },
      }),
      settleQuickRestore: () => Promise.resolve({ booted: false }),
    });
    await expect(suite.run('consolidateDisks', CONSOLIDATE_REQUEST, activities)).resolves.toMatchObject({ disks: [] });
    expect(calls).toEqual(['beginConsolidation', 'requestAdmission', 'settleQuickRestore', 'commitConsolidation']);
  });

  it('refuses a rate below nothing and names the field', async () => {
    const { activities } = recorded(consolidationSteps());
    const run = suite.run('consolidateDisks', { ...CONSOLIDATE_REQUEST, rateMBps: -1 }, activities);
    const { type, message } = await failureOf(run);
    expect(type).toBe('InvalidRequest');
    expect(message).toMatch(/rateMBps/);
  });
});
