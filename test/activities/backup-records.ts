import type { BackupRecord, CopyRecord } from '../../catalog/contract.ts';
import type { Backup } from '../../schemas/backup.ts';
import type { CopyState } from '../../schemas/copy.ts';

export const VM_UUID = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';

/** A whole backup of 10 bytes in repository `main`. */
export const backupRecord = (id: string, over: Partial<Backup> = {}): BackupRecord => ({
  backup: {
    id,
    vm: { uuid: VM_UUID, name: 'web-1' },
    type: over.parentId == null ? 'full' : 'incremental',
    state: 'BackedUp',
    parentId: null,
    chainId: 'chain',
    position: 1,
    isolated: false,
    endOfChain: false,
    consistency: 'crash',
    instant: '2026-11-21T12:00:00.000Z',
    host: 'kvm-1',
    repository: 'main',
    compression: 'None',
    validation: 'NotValidated',
    disks: [],
    storedBytes: 10,
    durationMs: 0,
    ...over,
  },
  disks: [],
  workflowId: 'w',
  runId: 'r',
  createdAt: '2026-11-21T12:00:00.000Z',
  failure: null,
  strategy: 'checkpoint',
  offering: null,
  requestedBy: null,
  pinned: false,
  damage: null,
});

/** Its copy in repository `off-site`. */
export const copyRecord = (backupId: string, state: CopyState, over: Partial<CopyRecord> = {}): CopyRecord => ({
  backupId,
  vmUuid: VM_UUID,
  repository: 'off-site',
  state,
  type: 'full',
  parentId: null,
  storedBytes: 10,
  disks: [],
  copiedAt: '2026-11-21T13:00:00.000Z',
  verifiedAt: null,
  damage: null,
  failure: null,
  ...over,
});
