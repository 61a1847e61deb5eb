import type { Backup } from '../../schemas/backup.ts';
import type { CompletedBackup, VmRecord } from '../../schemas/catalog.ts';
import type { RepositoryRecord } from '../../schemas/repository.ts';
import type { Delta } from '../../schemas/delta.ts';
import type { DiskRestorePlan, PreparedDisk, PreparedRestore, RestorePlan } from '../../schemas/restore-plan.ts';
import type { BackupPlan, BackupTarget, BegunBackup, CopiedDisk, DiskExport, VmFacts } from '../../schemas/plan.ts';
import { GRANTED, HOST, type FakeActivities } from './workflow-suite.ts';

export const VM = { uuid: '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e', name: 'web-1' };

export const repository: RepositoryRecord = {
  name: 'main',
  id: '0d9fd8a1-3b1f-4c52-8f55-1f2f8a3a7b11',
  location: { kind: 'directory', path: '/srv/backups' },
  slots: 4,
  createdAt: '2026-11-21T12:00:00.000Z',
};

export const vmRecord: VmRecord = {
  ...VM,
  host: HOST,
  power: 'running',
  state: 'Idle',
  error: null,
  offering: null,
  disks: [],
  lastSeenAt: '2026-11-21T12:00:00.000Z',
};

export const target: BackupTarget = {
  vm: VM,
  host: HOST,
  repository,
  offering: null,
  quiesce: 'none',
  compression: 'zstd',
  includeDisks: [],
  excludeDisks: [],
  strategy: 'checkpoint',
  keepCheckpoints: 2,
  chainSize: 8,
  timeLimitSeconds: 60,
  tenant: 'default',
  priority: 0,
};

export const facts: VmFacts = { ...VM, power: 'running', disks: [], checkpoints: [], parentProblems: [] };

const TARGETS = ['vda', 'vdb'];

export const planOf = (backupId: string, checkpointLost = false): BackupPlan => ({
  backupId,
  target,
  type: 'full',
  isolated: false,
  parentId: null,
  chainId: backupId,
  position: 1,
  endOfChain: false,
  disks: TARGETS.map((name, number) => ({
    target: name,
    number,
    serial: null,
    sourcePath: `/images/${name}.qcow2`,
    sourceFormat: 'qcow2',
    virtualSizeBytes: 1048576,
    type: 'full',
    fullReason: checkpointLost ? 'checkpoint-lost' : 'first-backup',
    parentFile: null,
    holdsBitmap: true,
  })),
  skippedDisks: [],
  stopped: false,
  checkpoint: true,
  staleCheckpoints: [],
  requestedBy: null,
});

export const exportOf = (name: string): DiskExport => ({
  target: name,
  socketPath: '/run/holdfast/nbd',
  exportName: name,
  mapContext: 'base:allocation',
  file: `${VM.uuid}/disk-0/full-20261121-120000.qcow2`,
});

export const begun: BegunBackup = {
  instant: '2026-11-21T12:00:00.000Z',
  consistency: 'crash',
  freezeMs: null,
  notFrozen: null,
  thawPending: false,
  exports: TARGETS.map(exportOf),
};

export const copyOf = ({ target: name, file }: DiskExport): CopiedDisk => ({
  target: name,
  file,
  changedBytes: 1,
  readBytes: 1,
  storedBytes: 1,
  clusterBytes: 65536,
  sums: { file: `${file}.sums`, sha256: '0'.repeat(64), segments: 1 },
  attempts: 1,
});

export const completed = (id: string): CompletedBackup => ({
  id,
  consistency: 'crash',
  instant: begun.instant,
  durationMs: 1000,
  disks: [],
  checkpointXml: null,
});

export const backupOf = ({ backupId }: BackupPlan): Backup => ({
  id: backupId,
  vm: VM,
  type: 'full',
  state: 'BackedUp',
  parentId: null,
  chainId: backupId,
  position: 1,
  isolated: false,
  endOfChain: false,
  consistency: 'crash',
  instant: begun.instant,
  host: HOST,
  repository: repository.name,
  compression: 'Compressed',
  validation: 'NotValidated',
  disks: [],
  storedBytes: 0,
  durationMs: 1000,
});

/** Steps of a backup that goes well; a test replaces those that do not. */
export const backupSteps = (): FakeActivities => ({
  checkRequest: () => Promise.resolve({ timeLimitSeconds: 60, heartbeatSeconds: 5 }),
  whereIsVm: () => Promise.resolve({ match: vmRecord, hinted: [HOST], others: [] }),
  findVm: () => Promise.resolve([]),
  recordAnswer: () => Promise.resolve(),
  resolveTarget: () => Promise.resolve(target),
  requestAdmission: () => Promise.resolve(GRANTED),
  parentFiles: () => Promise.resolve([]),
  inspectVm: () => Promise.resolve(facts),
  planBackup: (...[backupId, , , , lost]: [string, unknown, unknown, unknown, string[]]) =>
    Promise.resolve(planOf(backupId, lost.length > 0)),
  beginBackup: () => Promise.resolve(begun),
  copyDisk: (...[, disk]: [BackupPlan, DiskExport]) => Promise.resolve(copyOf(disk)),
  endBackup: () => Promise.resolve(),
  publishBackup: (plan: BackupPlan) => Promise.resolve(completed(plan.backupId)),
  commitBackup: (plan: BackupPlan) => Promise.resolve(backupOf(plan)),
  forgetBackup: () => Promise.resolve(),
  staleCheckpoints: () => Promise.resolve([]),
  removeCheckpoints: () => Promise.resolve(),
  checkpointsRemoved: () => Promise.resolve(),
  abortBackup: () => Promise.resolve({ published: null, leftInRepository: null }),
  recordFailure: () => Promise.resolve(),
  releaseAdmission: () => Promise.resolve(),
});

/** An overlay that an older backup put on a disk. */
export const deltaOf = (target: string): Delta => ({
  backupId: BACKUP_ID,
  target,
  path: `/images/${target}.raw.holdfast-${BACKUP_ID}.qcow2`,
  frozenPath: `/images/${target}.raw`,
  frozenFormat: 'raw',
  frozenStamp: '1:2:3',
});

/** Steps of a backup by strategy `snapshot` that goes well, on a VM with the overlays of an older one. */
export const snapshotSteps = (): FakeActivities => {
  const settled = { forget: TARGETS.map(deltaOf), update: [], postponed: [], anomalies: [] };
  const snapshotTarget = { ...target, strategy: 'snapshot' as const };
  return {
    ...backupSteps(),
    resolveTarget: () => Promise.resolve(snapshotTarget),
    planBackup: (backupId: string) =>
      Promise.resolve({ ...planOf(backupId), target: snapshotTarget, checkpoint: false }),
    beginBackup: () => Promise.resolve({ ...begun, deltas: TARGETS.map(deltaOf) }),
    recordDeltas: () => Promise.resolve(),
    deltasOnVm: () => Promise.resolve({ keep: [], drop: TARGETS.map(deltaOf) }),
    mergeDeltas: () => Promise.resolve(settled),
    deltasSettled: () => Promise.resolve([]),
    undoSnapshot: () => Promise.resolve(),
    recordMergeFailure: () => Promise.resolve(),
    mergeRepaired: () => Promise.resolve(),
  };
};

const BACKUP_ID = '2f31b7a4-8c1e-4e0e-9d53-6c2b6b0d7c11';
export const RESTORE_REQUEST = { backupId: BACKUP_ID };

export const prepared: PreparedRestore = {
  vm: VM,
  define: false,
  disks: ['vda', 'vdb'].map((target) => ({
    target,
    chain: [{ backupId: BACKUP_ID, file: `${VM.uuid}/disk-0/full-20261121-120000.qcow2` }],
    virtualSizeBytes: 1048576,
    path: `/images/${target}.qcow2`,
    besidePath: `/images/${target}.qcow2.new`,
    formerPath: `/images/${target}.qcow2.former`,
    format: 'qcow2' as const,
  })),
};

export const restored = {
  vm: VM,
  disks: prepared.disks.map(({ target, path }) => ({ target, path, verified: true })),
};

export const preview = {
  dryRun: true,
  vm: VM,
  host: HOST,
  isNew: false,
  disks: [],
  untouched: [],
  warnings: [],
  refused: [],
};

/** Steps of a restore that goes well; a test replaces those that do not. */
export const restoreSteps = (): FakeActivities => ({
  findBackup: () => Promise.resolve(backupOf(planOf(BACKUP_ID))),
  whereIsVm: () => Promise.resolve({ match: { ...vmRecord, power: 'shutoff' }, hinted: [HOST], others: [] }),
  findVm: () => Promise.resolve([]),
  recordAnswer: () => Promise.resolve(),
  resolveRestore: (restoreId: string) => {
    const plan: RestorePlan = {
      restoreId,
      backupId: BACKUP_ID,
      vm: VM,
      as: null,
      host: HOST,
      repository,
      timeLimitSeconds: 60,
      start: false,
    };
    const admission = {
      operationId: restoreId,
      operation: 'restoreVm',
      workflowId: 'w',
      runId: 'r',
      vmUuid: VM.uuid,
      chain: null,
      host: HOST,
      repository: repository.name,
      tenant: 'default',
      priority: 10,
    };
    return Promise.resolve({ plan, admission, heartbeatSeconds: 5 });
  },
  requestAdmission: () => Promise.resolve(GRANTED),
  beginRestore: () => Promise.resolve(),
  previewRestore: () => Promise.resolve(preview),
  prepareRestore: () => Promise.resolve(prepared),
  restoreDisk: () => Promise.resolve(),
  swapDisks: () => Promise.resolve(restored),
  commitRestore: () => Promise.resolve(),
  finishRestore: () => Promise.resolve(),
  undoRestore: () => Promise.resolve(),
  recordRestoreFailure: () => Promise.resolve(),
  releaseAdmission: () => Promise.resolve(),
});

export const RESTORE_DISK_REQUEST = { backupId: BACKUP_ID, disk: 'vda', toVm: 'web-2' };

const diskToRestore = prepared.disks[0] ?? ({} as never);
export const preparedDisk: PreparedDisk = {
  disk: { ...diskToRestore, isNew: true },
  target: 'vdb',
  bus: 'virtio',
  serial: null,
  wwn: null,
  driver: {},
};

export const restoredDisk = {
  vm: { ...VM, name: 'web-2' },
  disks: [{ target: 'vdb', path: preparedDisk.disk.path, verified: true }],
};

/** Steps of a restore of one disk that goes well; a test replaces those that do not. */
export const restoreDiskSteps = (): FakeActivities => ({
  findBackup: () => Promise.resolve(backupOf(planOf(BACKUP_ID))),
  whereIsVm: () => Promise.resolve({ match: vmRecord, hinted: [HOST], others: [] }),
  findVm: () => Promise.resolve([]),
  recordAnswer: () => Promise.resolve(),
  resolveDiskRestore: (restoreId: string) => {
    const plan: DiskRestorePlan = {
      restoreId,
      backupId: BACKUP_ID,
      vm: VM,
      disk: 'vda',
      toVm: restoredDisk.vm,
      target: null,
      path: null,
      host: HOST,
      isOtherHost: false,
      repository,
      timeLimitSeconds: 60,
    };
    const admission = {
      operationId: restoreId,
      operation: 'restoreDisk',
      workflowId: 'w',
      runId: 'r',
      vmUuid: VM.uuid,
      chain: null,
      host: HOST,
      repository: repository.name,
      tenant: 'default',
      priority: 0,
    };
    return Promise.resolve({ plan, admission, heartbeatSeconds: 5 });
  },
  previewDisk: () => Promise.resolve(preparedDisk),
  requestAdmission: () => Promise.resolve(GRANTED),
  prepareDisk: () => Promise.resolve(preparedDisk),
  restoreDisk: () => Promise.resolve(),
  attachDisk: () => Promise.resolve(restoredDisk),
  commitDiskRestore: () => Promise.resolve(),
  finishDisk: () => Promise.resolve(),
  undoDisk: () => Promise.resolve(),
  recordDiskRestoreFailure: () => Promise.resolve(),
  releaseAdmission: () => Promise.resolve(),
});
