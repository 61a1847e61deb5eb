import type { PlannedRewrite } from '../../activities/control/rewrite.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { MergedChain } from '../../schemas/merge-plan.ts';
import type { RewriteOperation, RewrittenFiles, SwappedBackup } from '../../schemas/rewrite-plan.ts';
import { manifestOf } from '../support/sample-manifest.ts';
import { backupOf, planOf, repository, VM } from './fakes.ts';
import { GRANTED, HOST, type FakeActivities } from './workflow-suite.ts';

export const BACKUP = '00000000-0000-4000-8000-000000000001';
export const FULL = '00000000-0000-4000-8000-000000000002';

const [disk] = manifestOf(BACKUP).disks;
if (disk === undefined) throw new Error('a sample without disks');

const backup: Backup = { ...backupOf(planOf(BACKUP)), storedBytes: 100 };
export const compressed: Backup = { ...backup, compression: 'Compressed', storedBytes: 40 };

const rewritten: RewrittenFiles = {
  found: 'rewritten',
  disks: [
    {
      formerSums: disk.sums.sha256,
      replacement: { ...disk, storedBytes: 40, temporary: `${disk.file}.rewrite-x`, compression: 'zstd' },
    },
  ],
};
const swapped: SwappedBackup = {
  type: 'full',
  parentId: null,
  compression: 'zstd',
  disks: [{ ...disk, storedBytes: 40 }],
};

const orderOf = (operationId: string, operation: RewriteOperation): PlannedRewrite => ({
  plan: { operationId, operation, backupId: BACKUP, vm: VM, repository, compression: 'zstd', timeLimitSeconds: 60 },
  admission: {
    operationId,
    operation,
    workflowId: 'w',
    runId: 'r',
    vmUuid: null,
    chain: { id: FULL, mode: 'shared' },
    host: null,
    repository: null,
    tenant: 'default',
    priority: 3,
  },
  hosts: [HOST],
  heartbeatSeconds: 5,
});

/** What both compressing and merging do. */
const rewriteSteps = (): FakeActivities => ({
  requestAdmission: () => Promise.resolve(GRANTED),
  releaseAdmission: () => Promise.resolve(),
  beginRewrite: () => Promise.resolve(),
  seesRepository: () => Promise.resolve(),
  rewriteBackup: () => Promise.resolve(rewritten),
  finalizeRewrite: () => Promise.resolve(),
  swapRewritten: () => Promise.resolve(swapped),
  commitRewrite: () => Promise.resolve(compressed),
  forgetRewrite: () => Promise.resolve(),
  undoRewrite: () => Promise.resolve(),
  endRewrite: () => Promise.resolve(),
});

export const compressSteps = (): FakeActivities => ({
  ...rewriteSteps(),
  planCompression: (operationId: string) =>
    Promise.resolve({ ...orderOf(operationId, 'compressBackup'), done: null, storedBytes: 100 }),
  keepFiles: () => Promise.resolve({ ...backup, compression: 'Compressed' }),
});

const chain: MergedChain = {
  vm: VM,
  chainId: FULL,
  repository: repository.name,
  merges: [
    { full: { id: FULL, instant: null, storedBytes: 10 }, into: { id: BACKUP, instant: null, storedBytes: 100 } },
  ],
  blocked: null,
  dryRun: false,
};

export const mergeSteps = (): FakeActivities => ({
  ...rewriteSteps(),
  planMerges: (operationId: string) => Promise.resolve({ chain, next: orderOf(operationId, 'mergeBackups') }),
  requireMergeable: () => Promise.resolve(),
  planFormerFull: () =>
    Promise.resolve({
      backupId: FULL,
      vm: VM,
      chainId: FULL,
      hide: false,
      expunge: [{ id: FULL, state: 'BackedUp', files: ['f'], storedBytes: 10 }],
      neededBy: [],
      freedBytes: 10,
      endsChain: false,
    }),
  beginExpunge: () => Promise.resolve(),
  deleteFiles: () => Promise.resolve(),
  backupExpunged: () => Promise.resolve(),
});
