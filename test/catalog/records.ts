import { randomUUID } from 'node:crypto';
import type { Catalog } from '../../catalog/contract.ts';
import type { Consolidation } from '../../schemas/consolidation.ts';
import type {
  AdmissionRequest,
  BackupDiskRecord,
  CompletedBackup,
  NewBackup,
  VmSighting,
} from '../../schemas/catalog.ts';

export const T0 = '2026-11-21T12:00:00.000Z';

/** ISO time some seconds after T0. */
export const after = (seconds: number): string => new Date(Date.parse(T0) + seconds * 1_000).toISOString();

export const newBackup = (given: Partial<NewBackup> = {}): NewBackup => ({
  id: randomUUID(),
  vmUuid: randomUUID(),
  vmName: 'web-1',
  type: 'full',
  parentId: null,
  chainId: randomUUID(),
  position: 1,
  isolated: false,
  endOfChain: false,
  host: 'kvm-1',
  repository: 'main',
  compression: 'zstd',
  workflowId: 'backup/web-1',
  runId: randomUUID(),
  ...given,
});

export const disk = (given: Partial<BackupDiskRecord> = {}): BackupDiskRecord => ({
  target: 'vda',
  number: 0,
  serial: null,
  sourcePath: '/var/lib/libvirt/images/web-1.qcow2',
  sourceFormat: 'qcow2',
  virtualSizeBytes: 8 * 2 ** 30,
  type: 'full',
  fullReason: 'first-backup',
  file: 'vm/disk-0/full-20261121-120000.qcow2',
  backingFile: null,
  changedBytes: 4 * 2 ** 30,
  readBytes: 4 * 2 ** 30,
  storedBytes: 2 ** 30,
  clusterBytes: 65_536,
  sums: { file: 'vm/disk-0/full-20261121-120000.sums', sha256: 'ab'.repeat(32), segments: 128 },
  ...given,
});

export const completed = (id: string, given: Partial<CompletedBackup> = {}): CompletedBackup => ({
  id,
  consistency: 'application',
  instant: T0,
  durationMs: 61_000,
  disks: [disk()],
  checkpointXml: null,
  ...given,
});

/** A chain of complete backups, one minute apart; gives their ids, the full first. */
export async function takeChain(catalog: Catalog, length: number, given: Partial<NewBackup> = {}): Promise<string[]> {
  const shared = { vmUuid: randomUUID(), chainId: randomUUID(), ...given };
  const ids: string[] = [];
  for (let position = 1; position <= length; position++) {
    const backup = newBackup({
      ...shared,
      position,
      parentId: ids.at(-1) ?? null,
      type: position === 1 ? 'full' : 'incremental',
    });
    await catalog.backups.create(backup);
    await catalog.backups.complete(completed(backup.id, { instant: after(position * 60) }));
    ids.push(backup.id);
  }
  return ids;
}

export const sighting = (given: Partial<VmSighting> = {}): VmSighting => ({
  uuid: randomUUID(),
  name: 'web-1',
  host: 'kvm-1',
  power: 'running',
  disks: [{ target: 'vda', format: 'qcow2', path: '/images/web-1.qcow2', sizeBytes: 8 * 2 ** 30 }],
  ...given,
});

export const admissionRequest = (given: Partial<AdmissionRequest> = {}): AdmissionRequest => {
  const operationId = given.operationId ?? randomUUID();
  return {
    operationId,
    operation: 'takeBackup',
    workflowId: `backup/${operationId.slice(0, 8)}`,
    runId: randomUUID(),
    vmUuid: randomUUID(),
    chain: null,
    host: 'kvm-1',
    repository: 'main',
    tenant: 'default',
    priority: 3,
    ...given,
  };
};

export const consolidation = (): Consolidation => {
  const id = randomUUID();
  const vm = { uuid: randomUUID(), name: 'web-1' };
  const backupId = randomUUID();
  const repository = {
    name: 'main',
    id: randomUUID(),
    location: { kind: 'directory' as const, path: '/srv/backups' },
    slots: 4,
    createdAt: T0,
  };
  return {
    id,
    vm,
    backupId,
    host: 'kvm-1',
    repository: 'main',
    state: 'starting',
    rateBytesPerSecond: 4_000_000,
    plan: { restoreId: id, backupId, vm, as: null, host: 'kvm-1', repository, timeLimitSeconds: 60, start: true },
    prepared: {
      vm,
      define: false,
      disks: [
        {
          target: 'vda',
          chain: [{ backupId, file: 'vm/disk-0/full-20261121-120000.qcow2' }],
          virtualSizeBytes: 8 * 2 ** 30,
          path: '/images/vda.qcow2',
          besidePath: '/images/vda.qcow2.beside',
          formerPath: '/images/vda.qcow2.former',
          format: 'qcow2',
        },
      ],
    },
    damage: null,
    verifiedAt: null,
    workflowId: 'restoreVm-web-1',
    runId: randomUUID(),
    since: T0,
  };
};
