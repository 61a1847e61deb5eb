import { pack } from '../../activities/packed.ts';
import type { CheckPlan, FileToCheck } from '../../schemas/check.ts';
import { emptyRescan } from '../../schemas/rescan.ts';
import { repository, VM } from './fakes.ts';
import { GRANTED, HOST, type FakeActivities } from './workflow-suite.ts';

export const RESCAN_REQUEST = { repository: repository.name };
const NOW = '2026-11-21T12:00:00.000Z';
export const OTHER_VM = '7f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';

/** Steps of a rescan of two VMs, one of which only the catalog knows. */
export const rescanSteps = (): FakeActivities => ({
  planRescan: () => Promise.resolve({ repository, hosts: [HOST] }),
  seesRepository: () => Promise.resolve(),
  listStoredVms: () => Promise.resolve([{ uuid: VM.uuid, manifests: 2 }]),
  vmsKnownIn: () => Promise.resolve([OTHER_VM]),
  claimVms: () => Promise.resolve([]),
  readStoredVms: () => Promise.resolve({ packed: pack([]), parts: 1 }),
  applyRescan: (...[, vms]: [string, string[]]) => Promise.resolve({ ...emptyRescan(), vms: vms.length, added: 2 }),
  releaseVms: () => Promise.resolve(),
  recordRescan: () => Promise.resolve(),
});

export const fileOf = (letter: string): FileToCheck => ({
  unverifiedSince: NOW,
  backupId: `2f31b7a4-8c1e-4e0e-9d53-${letter.repeat(12)}`,
  target: 'vda',
  vm: VM,
  file: `${VM.uuid}/disk-0/${letter}.qcow2`,
  storedBytes: 10,
});
const plan: CheckPlan = {
  checkId: '5a0c3f1e-9d0e-4b9c-8f43-0a4d0f8e9b21',
  repository,
  vmUuid: null,
  startedAt: NOW,
  before: NOW,
  files: 3,
  bytes: 30,
  rateBytesPerSecond: null,
};

/** Steps of a check of three files, two at once; none is damaged. */
export const checkSteps = (): FakeActivities => ({
  planCheck: () => Promise.resolve({ plan, hosts: [HOST], heartbeatSeconds: 10 }),
  seesRepository: () => Promise.resolve(),
  filesToCheck: (...[, after]: [CheckPlan, FileToCheck | null]) =>
    Promise.resolve(after === null ? [fileOf('a'), fileOf('b')] : [fileOf('c')]),
  verifyStored: (...[, files]: [CheckPlan, FileToCheck[]]) =>
    Promise.resolve(files.map((file) => ({ file, outcome: 'right' as const }))),
  noteChecked: () => Promise.resolve(),
  stillStored: () => Promise.resolve(true),
  admissionToCheck: (...[operationId, { backupId }]: [string, FileToCheck]) =>
    Promise.resolve({
      operationId,
      operation: 'checkRepository',
      workflowId: 'w',
      runId: 'r',
      vmUuid: null,
      chain: { id: backupId, mode: 'shared' as const },
      host: null,
      repository: null,
      tenant: 'default',
      priority: 4,
    }),
  requestAdmission: () => Promise.resolve(GRANTED),
  releaseAdmission: () => Promise.resolve(),
  endCheck: (...[, progress]: [CheckPlan, { files: number; bytes: number; damagedCount: number; damaged: never[] }]) =>
    Promise.resolve({
      repository: repository.name,
      files: progress.files,
      bytes: progress.bytes,
      damagedFiles: progress.damagedCount,
      damaged: progress.damaged,
      healed: [],
      unverifiedSince: null,
    }),
});
