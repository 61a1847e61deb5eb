import type { ConsolidatedVm, Consolidation, PullState } from '../../schemas/consolidation.ts';
import { prepared, repository, restored, RESTORE_REQUEST, restoreSteps, VM } from './fakes.ts';
import { HOST, type FakeActivities } from './workflow-suite.ts';

const ID = '7b0d8a52-3f6e-4a0c-9f4e-2a9c6f1d8e34';
export const QUICK_REQUEST = { ...RESTORE_REQUEST, quick: true };
export const CONSOLIDATE_REQUEST = { vm: VM.name };

export const consolidation: Consolidation = {
  id: ID,
  vm: VM,
  backupId: RESTORE_REQUEST.backupId,
  host: HOST,
  repository: repository.name,
  state: 'pulling',
  rateBytesPerSecond: null,
  plan: {
    restoreId: ID,
    backupId: RESTORE_REQUEST.backupId,
    vm: VM,
    as: null,
    host: HOST,
    repository,
    timeLimitSeconds: 60,
    start: true,
    quick: { rateBytesPerSecond: null },
  },
  prepared,
  damage: null,
  verifiedAt: null,
  workflowId: 'w',
  runId: 'r',
  since: '2026-11-21T12:00:00.000Z',
};

export const consolidatedVm: ConsolidatedVm = { vm: VM, backupId: RESTORE_REQUEST.backupId, disks: restored.disks };

export const pullState = (found: Partial<PullState> & Pick<PullState, 'state'>): PullState => ({
  waitingFor: null,
  resumed: false,
  pullFailed: null,
  disks: prepared.disks.map(({ target }) => ({ target, done: false, pulledBytes: 1, totalBytes: 4 })),
  ...found,
});

/** Steps of a consolidation that goes well. */
export const consolidationSteps = (states: PullState[] = [pullState({ state: 'done' })]): FakeActivities => {
  let looks = 0;
  return {
    beginConsolidation: () => {
      const admission = {
        operationId: ID,
        operation: 'consolidateDisks',
        workflowId: 'w',
        runId: 'r',
        vmUuid: VM.uuid,
        chain: null,
        host: null,
        repository: null,
        tenant: 'default',
        priority: 0,
      };
      return Promise.resolve({ consolidation, admission, heartbeatSeconds: 5 });
    },
    requestAdmission: () => Promise.resolve({ granted: true }),
    verifyChain: () => Promise.resolve({ verifiedBytes: 1 }),
    watchPull: () => Promise.resolve(states[Math.min(looks++, states.length - 1)]),
    noteConsolidationVerified: () => Promise.resolve(),
    noteConsolidationDamage: () => Promise.resolve(),
    noteConsolidationRate: () => Promise.resolve(),
    finishConsolidation: () => Promise.resolve(),
    commitConsolidation: () => Promise.resolve(),
    stopConsolidation: () => Promise.resolve(),
    stopPull: () => Promise.resolve(),
    settleQuickRestore: () => Promise.resolve({ booted: true }),
    commitQuickRestore: () => Promise.resolve(),
  };
};

/** Steps of a quick restore that goes well, and of what follows it. */
export const quickRestoreSteps = (): FakeActivities => {
  const steps = restoreSteps();
  return {
    ...steps,
    ...consolidationSteps(),
    resolveRestore: async (...parameters: never[]) => {
      const found = (await steps.resolveRestore?.(...parameters)) as { plan: Consolidation['plan'] };
      return { ...found, plan: { ...found.plan, quick: { rateBytesPerSecond: null } } };
    },
    noteQuickRestore: () => Promise.resolve(),
    bootOnBackup: () =>
      Promise.resolve({ ...restored, disks: restored.disks.map((disk) => ({ ...disk, verified: false })) }),
    handOverToConsolidation: () => Promise.resolve(),
    undoQuickRestore: () => Promise.resolve(),
    forgetQuickRestore: () => Promise.resolve(),
  };
};
