import { Context } from '@temporalio/activity';
import { describe, expect, it } from 'vitest';
import type { AdmissionRequest } from '../../schemas/catalog.ts';
import type { MergedChain } from '../../schemas/merge-plan.ts';
import type { CompressedBackup } from '../../workflows/compress-backup.ts';
import { BACKUP, compressed, compressSteps, FULL, mergeSteps } from './rewrite-fakes.ts';
import { failureOf, fails, GRANTED, recorded, workflowSuite } from './workflow-suite.ts';

const LONG_PART = ['requestAdmission', 'beginRewrite', 'seesRepository', 'rewriteBackup'];
const UNDO = ['undoRewrite', 'endRewrite', 'releaseAdmission'];

describe('compressBackup', () => {
  const suite = workflowSuite();

  it('shares the chain while it writes, and has VM and chain to itself while it swaps', async () => {
    const asked: AdmissionRequest[] = [];
    const { activities, calls } = recorded({
      ...compressSteps(),
      requestAdmission: (request: AdmissionRequest) => {
        asked.push(request);
        return Promise.resolve(GRANTED);
      },
    });
    const done = await suite.run<CompressedBackup>('compressBackup', { backupId: BACKUP }, activities);
    expect(done).toEqual({
      ...compressed,
      compressionResult: { outcome: 'compressed', beforeBytes: 100, afterBytes: 40 },
    });
    expect(calls).toEqual([
      'planCompression',
      ...LONG_PART,
      'releaseAdmission',
      'requestAdmission',
      'finalizeRewrite',
      'swapRewritten',
      'commitRewrite',
      'releaseAdmission',
      'forgetRewrite',
    ]);
    expect(asked.map(({ vmUuid, chain }) => ({ alone: vmUuid !== null, mode: chain?.mode }))).toEqual([
      { alone: false, mode: 'shared' },
      { alone: true, mode: 'exclusive' },
    ]);
  });

  it('swaps nothing when the files do not get smaller', async () => {
    const { activities, calls } = recorded({
      ...compressSteps(),
      rewriteBackup: () => Promise.resolve({ found: 'rewritten', disks: [] }),
    });
    const done = await suite.run<CompressedBackup>('compressBackup', { backupId: BACKUP }, activities);
    expect(done.compressionResult).toEqual({ outcome: 'not-smaller', beforeBytes: 100, afterBytes: 100 });
    expect(calls).toEqual(['planCompression', ...LONG_PART, 'keepFiles', 'releaseAdmission', 'forgetRewrite']);
  });

  it.each([
    { found: 'done', why: 'an earlier run came to its end' },
    { found: 'unfinished', why: 'an earlier run was cut off in its swap' },
  ])('finishes when $why', async ({ found }) => {
    const { activities, calls } = recorded({
      ...compressSteps(),
      rewriteBackup: () => Promise.resolve({ found, disks: [] }),
    });
    await suite.run('compressBackup', { backupId: BACKUP }, activities);
    expect(calls).toContain('swapRewritten');
    expect(calls).toContain('commitRewrite');
  });

  it('undoes what it wrote beside when that fails, and says why', async () => {
    const { activities, calls } = recorded({ ...compressSteps(), rewriteBackup: fails('RepositoryFull') });
    expect(await failureOf(suite.run('compressBackup', { backupId: BACKUP }, activities))).toMatchObject({
      type: 'RepositoryFull',
    });
    expect(calls).toEqual(['planCompression', ...LONG_PART, ...UNDO]);
  });

  it('undoes what it wrote beside when it is cancelled', async () => {
    const { activities, calls } = recorded({
      ...compressSteps(),
      rewriteBackup: async () => {
        const context = Context.current();
        const beat = setInterval(() => context.heartbeat(), 100);
        return await context.cancelled.finally(() => clearInterval(beat));
      },
    });
    await suite.run('compressBackup', { backupId: BACKUP }, activities, async (handle) => {
      while (!calls.includes('rewriteBackup')) await new Promise((done) => setTimeout(done, 20));
      await handle.cancel();
      await Promise.allSettled([handle.result()]);
    });
    expect(calls).toEqual(['planCompression', ...LONG_PART, ...UNDO]);
  });

  it('does nothing to a backup that is compressed', async () => {
    const { activities, calls } = recorded({
      planCompression: async (...parameters: never[]) => ({
        ...((await compressSteps().planCompression?.(...parameters)) as object),
        done: compressed,
      }),
    });
    const done = await suite.run<CompressedBackup>('compressBackup', { backupId: BACKUP }, activities);
    expect(done.compressionResult).toEqual({ outcome: 'already-compressed', beforeBytes: 40, afterBytes: 40 });
    expect(calls).toEqual(['planCompression']);
  });
});

describe('mergeBackups', () => {
  const suite = workflowSuite();

  it('removes the former full only after its successor is in its place', async () => {
    const { activities, calls } = recorded(mergeSteps());
    const done = await suite.run<MergedChain>('mergeBackups', { vm: 'web-1' }, activities);
    expect(done.merges.map(({ full, into }) => [full.id, into.id])).toEqual([[FULL, BACKUP]]);
    expect(calls).toEqual([
      'planMerges',
      ...LONG_PART,
      'releaseAdmission',
      'requestAdmission',
      'requireMergeable',
      'finalizeRewrite',
      'swapRewritten',
      'commitRewrite',
      'planFormerFull',
      'beginExpunge',
      'deleteFiles',
      'backupExpunged',
      'releaseAdmission',
      'forgetRewrite',
    ]);
  });

  it('keeps the full when somebody has built on it meanwhile', async () => {
    const { activities, calls } = recorded({ ...mergeSteps(), planFormerFull: () => Promise.resolve(null) });
    await suite.run('mergeBackups', { vm: 'web-1' }, activities);
    expect(calls).not.toContain('deleteFiles');
    expect(calls).toContain('commitRewrite');
  });

  it('swaps nothing when the chain is another by then', async () => {
    const { activities, calls } = recorded({ ...mergeSteps(), requireMergeable: fails('NothingToMerge') });
    expect(await failureOf(suite.run('mergeBackups', { vm: 'web-1' }, activities))).toMatchObject({
      type: 'NothingToMerge',
    });
    expect(calls).not.toContain('swapRewritten');
    expect(calls.slice(-3)).toEqual(UNDO);
  });
});
