import type { PlannedCopies, PlannedCopy } from '../../activities/control/copies.ts';
import type { BackupToCopy, CopiedBackup } from '../../schemas/copy.ts';
import { repository, VM } from './fakes.ts';
import { GRANTED, HOST, type FakeActivities } from './workflow-suite.ts';

export const FULL = '00000000-0000-4000-8000-000000000001';
export const CHILD = '00000000-0000-4000-8000-000000000002';
export const GRANDCHILD = '00000000-0000-4000-8000-000000000003';

export const COPY_REQUEST = { backupId: CHILD, to: 'off-site' };

const offSite = {
  ...repository,
  name: 'off-site',
  id: '5d1f7a52-1f64-4c37-9d80-0d3b1d5c9b7e',
  location: { kind: 'directory' as const, path: '/mnt/off-site' },
};

export const stepOf = (id: string, parentId: string | null): BackupToCopy => ({
  id,
  parentId,
  instant: '2026-11-21T12:00:00.000Z',
  storedBytes: 100,
  isAncestor: id !== CHILD,
});

export const plannedCopies = (steps: BackupToCopy[], over: Partial<PlannedCopies> = {}): PlannedCopies => ({
  vm: VM,
  to: offSite.name,
  steps,
  revived: [],
  present: 0,
  blocked: [],
  left: 0,
  ...over,
});

const plannedCopy = (operationId: string, backupId: string): PlannedCopy => ({
  plan: { operationId, backupId, vm: VM, from: repository, to: offSite, timeLimitSeconds: 60 },
  admission: {
    operationId,
    operation: 'copyBackup',
    workflowId: 'w',
    runId: 'r',
    vmUuid: null,
    chain: { id: FULL, mode: 'shared' },
    host: null,
    repository: offSite.name,
    tenant: 'default',
    priority: 3,
  },
  hosts: [HOST],
  heartbeatSeconds: 5,
});

const copied: CopiedBackup = { type: 'full', parentId: null, disks: [], writtenBytes: 100 };

/** Steps of copying a full and its child that go well. */
export const copySteps = (): FakeActivities => ({
  planCopies: () => Promise.resolve(plannedCopies([stepOf(FULL, null), stepOf(CHILD, FULL)])),
  planCopy: (operationId: string, backupId: string) => Promise.resolve(plannedCopy(operationId, backupId)),
  requestAdmission: () => Promise.resolve(GRANTED),
  beginCopy: () => Promise.resolve(true),
  seesRepository: () => Promise.resolve(),
  copyBackupFiles: () => Promise.resolve(copied),
  commitCopy: () => Promise.resolve(),
  forgetCopy: () => Promise.resolve(),
  undoCopy: () => Promise.resolve(),
  endCopy: () => Promise.resolve(),
  releaseAdmission: () => Promise.resolve(),
});
