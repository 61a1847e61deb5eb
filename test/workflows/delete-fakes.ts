import type { JudgedRetention } from '../../activities/control/judge-retention.ts';
import type { JudgedVm } from '../../activities/control/retention.ts';
import type { StrayFile } from '../../activities/host/stray-files.ts';
import type { DeletePlan } from '../../schemas/delete-plan.ts';
import { repository, VM } from './fakes.ts';
import { GRANTED, HOST, type FakeActivities } from './workflow-suite.ts';

const idOf = (digit: string): string => `2f31b7a4-8c1e-4e0e-9d53-${digit.repeat(12)}`;
/** A chain: a full, and what is built on it. */
export const CHAIN = ['a', 'b', 'c'].map(idOf) as [string, string, string];
export const DELETE_REQUEST = { backupId: CHAIN[2] };

export const deletePlanOf = (backupId: string, expunge: string[]): DeletePlan => ({
  backupId,
  vm: VM,
  chainId: CHAIN[0],
  hide: expunge.length === 0,
  expunge: expunge.map((id) => ({ id, state: 'BackedUp', files: [`${VM.uuid}/disk-0/${id}.qcow2`], storedBytes: 10 })),
  neededBy: [],
  freedBytes: 10 * expunge.length,
  endsChain: false,
});

/** Steps of a delete of the newest, which takes two hidden ones along. */
export const deleteSteps = (): FakeActivities => ({
  planDelete: (...[operationId, backupId]: [string, string]) =>
    Promise.resolve({
      plan: deletePlanOf(backupId, backupId === CHAIN[2] ? CHAIN.toReversed() : []),
      hosts: [HOST],
      repository,
      admission: {
        operationId,
        operation: 'deleteBackup',
        workflowId: 'w',
        runId: 'r',
        vmUuid: VM.uuid,
        chain: { id: CHAIN[0], mode: 'exclusive' as const },
        host: null,
        repository: repository.name,
        tenant: 'default',
        priority: 4,
      },
    }),
  requestAdmission: () => Promise.resolve(GRANTED),
  seesRepository: () => Promise.resolve(),
  hideBackup: () => Promise.resolve(),
  beginExpunge: () => Promise.resolve(),
  deleteFiles: () => Promise.resolve(),
  isPublished: () => Promise.resolve(false),
  deleteStopped: () => Promise.resolve(),
  backupExpunged: () => Promise.resolve(),
  releaseAdmission: () => Promise.resolve(),
});

const judged = (id: string, outcome: JudgedRetention['outcome'], keptBy: string[] = []): JudgedRetention => ({
  id,
  instant: '2026-11-21T12:00:00.000Z',
  repository: repository.name,
  keptBy,
  outcome,
  wasHidden: false,
  storedBytes: 10,
});

export const judgedVm = (): JudgedVm => ({
  vm: VM,
  offering: 'gold',
  keptCount: 1,
  kept: [judged(idOf('d'), 'kept', ['last'])],
  going: [judged(CHAIN[2], 'deleted'), judged(CHAIN[1], 'hidden')],
  left: 0,
});

/** Steps of a retention that lets a chain's newest and one before it go. */
export const retentionSteps = (): FakeActivities => ({
  ...deleteSteps(),
  judgeRetention: () => Promise.resolve(judgedVm()),
  retentionLetsGo: () => Promise.resolve(true),
  recordRetention: () => Promise.resolve(),
  vmsWithRetention: (...[after]: [string | null]) => Promise.resolve(after === null ? [VM] : []),
});

const stray: StrayFile = {
  vmUuid: VM.uuid,
  key: `${VM.uuid}/disk-0/full-20261121-120000.qcow2`,
  sizeBytes: 10,
  modifiedMs: 1,
  ageSeconds: 7200,
  isUpload: false,
};
const checkpoints = { vm: VM, backupIds: [CHAIN[0]] };

/** Steps of a reclaim that finds one of each. */
export const reclaimSteps = (): FakeActivities => ({
  ...deleteSteps(),
  hostsToSearch: () => Promise.resolve([HOST]),
  listLeftovers: () => Promise.resolve([CHAIN[0], CHAIN[1]]),
  findOrphans: () =>
    Promise.resolve({
      backups: [{ backupId: CHAIN[0], host: HOST, vmUuid: VM.uuid, description: 'a backup' }],
      leases: [{ operationId: CHAIN[0], description: 'a lease' }],
      keep: [CHAIN[1]],
      graceSeconds: 3600,
    }),
  reclaimLeftovers: () => Promise.resolve({ found: ['notes'], published: [] }),
  recordFailure: () => Promise.resolve(),
  endedValidations: () => Promise.resolve([]),
  endedDeletes: () => Promise.resolve([{ backupId: CHAIN[2], description: 'a delete' }]),
  listOwnCheckpoints: () => Promise.resolve([checkpoints]),
  judgeCheckpoints: () => Promise.resolve({ orphans: [checkpoints], unknown: [] }),
  removeOwnCheckpoints: () => Promise.resolve(),
  repositoriesToSearch: () => Promise.resolve([{ repository, hosts: [HOST] }]),
  vmsToSearch: (...[, after]: [string, string | null]) => Promise.resolve(after === null ? [VM.uuid] : []),
  findStrays: () => Promise.resolve({ strays: [stray], problems: [] }),
  judgeStrays: () => Promise.resolve([stray]),
  removeStrays: () => Promise.resolve(1),
  admissionToReclaim: (operationId: string) =>
    Promise.resolve({
      operationId,
      operation: 'reclaimOrphans',
      workflowId: 'w',
      runId: 'r',
      vmUuid: VM.uuid,
      chain: null,
      host: null,
      repository: null,
      tenant: 'default',
      priority: 5,
    }),
});
