import type { Transaction } from 'kysely';
import type { BackupDiskRecord } from '../schemas/catalog.ts';
import type {
  BackupState,
  BackupType,
  CompressionState,
  Consistency,
  Strategy,
  ValidationState,
} from '../schemas/states.ts';
import type { ValidationResult } from '../schemas/validation.ts';
import { toDiskRow, UNTOUCHED } from './backup-rows.ts';
import { batches } from './batches.ts';
import { retireChain } from './checkpoints.ts';
import type { BackupTable, ChainTable, Database, Tables, VmTable } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** A backup as a rescan found it. */
export interface RescannedBackup {
  id: string;
  vmName: string;
  type: BackupType;
  state: BackupState;
  parentId: string | null;
  chainId: string | null;
  position: number | null;
  isolated: boolean;
  endOfChain: boolean;
  consistency: Consistency | null;
  /** null for one of which nothing is left but its name in another's manifest. */
  instant: string | null;
  host: string;
  codec: 'zstd' | 'none';
  compression: CompressionState;
  strategy: Strategy;
  validation: ValidationState;
  /** null leaves what the catalog knows. */
  validationResult: ValidationResult | null;
  requestedBy: string | null;
  offering: string | null;
  durationMs: number;
  disks: BackupDiskRecord[];
  damage: string | null;
  failure: { type: string; message: string } | null;
}

export interface KnownChain {
  id: string;
  state: 'open' | 'ended';
  /** Backups that came about in it. */
  size: number;
  endedReason: string | null;
}

/** What the catalog is to hold of one VM; backups in the order of their parents. */
export interface RescannedVm {
  uuid: string;
  name: string;
  host: string;
  repository: string;
  backups: RescannedBackup[];
  chains: KnownChain[];
  checkpoints: { backupId: string; state: 'current' | 'kept' }[];
}

export interface RescanQueries {
  /** Chains of these VMs in that repository, by VM. */
  chains(repository: string, vmUuids: string[]): Promise<Map<string, KnownChain[]>>;
  /** Of these ids those that are known as backups of another repository, with its name. */
  elsewhere(repository: string, backupIds: string[]): Promise<Map<string, string>>;
  /** Takes all of it over, or nothing. For a caller to whom the VMs are admitted. Again: no change. */
  apply(vms: RescannedVm[], run: { workflowId: string; runId: string }): Promise<void>;
}

export const rescanQueries = (database: Database): RescanQueries => ({
  async chains(repository, vmUuids) {
    const found = new Map<string, KnownChain[]>();
    for (const some of batches(vmUuids, 500)) {
      const rows = await database.db
        .selectFrom('chains')
        .selectAll()
        .where('repository', '=', repository)
        .where('vm_uuid', 'in', some)
        .orderBy('id')
        .execute();
      for (const { id, vm_uuid, state, size, ended_reason } of rows) {
        const chain = { id, state, size, endedReason: ended_reason };
        found.set(vm_uuid, [...(found.get(vm_uuid) ?? []), chain]);
      }
    }
    return found;
  },

  async elsewhere(repository, backupIds) {
    const found = new Map<string, string>();
    for (const some of batches(backupIds, 1000)) {
      const rows = await database.db
        .selectFrom('backups')
        .select(['id', 'repository'])
        .where('id', 'in', some)
        .where('repository', '!=', repository)
        .execute();
      for (const { id, repository: other } of rows) found.set(id, other);
    }
    return found;
  },

  async apply(vms, run) {
    await oneAtATime(database, 'backups', async (trx) => {
      await putVms(trx, vms);
      await putChains(trx, vms);
      const now = new Date().toISOString();
      const rows = vms.flatMap((vm) => vm.backups.map((backup) => toRow(vm, backup, run, now)));
      for (const some of batches(rows, 300)) await putBackups(trx, some);
      await putDisks(
        trx,
        vms.flatMap(({ backups }) => backups),
      );
      await putCheckpoints(trx, vms);
      const judged = vms.flatMap(({ backups }) => backups).filter(({ validationResult }) => validationResult !== null);
      for (const { id, validationResult } of judged) await putValidation(trx, id, validationResult);
    });
  },
});

/** A VM that no host has is known by its backups alone; the next inventory of the host it is on tells more. */
async function putVms(trx: Transaction<Tables>, vms: readonly RescannedVm[]): Promise<void> {
  const rows = vms
    .filter(({ backups }) => backups.length > 0)
    .map(({ uuid, name, host }): VmTable => ({
      uuid,
      name,
      host,
      power: 'shutoff',
      state: 'Idle',
      error: null,
      offering: null,
      last_seen_at: null,
      disks: '[]',
    }));
  for (const some of batches(rows, 500)) {
    await trx
      .insertInto('vms')
      .values(some)
      .onConflict((conflict) =>
        conflict
          .column('uuid')
          .doUpdateSet((column) => ({ name: column.ref('excluded.name'), host: column.ref('excluded.host') }))
          // so far known from manifests whose names could not be opened
          .whereRef('vms.name', '=', 'vms.uuid')
          .where('vms.last_seen_at', 'is', null),
      )
      .execute();
  }
}

async function putChains(trx: Transaction<Tables>, vms: readonly RescannedVm[]): Promise<void> {
  const now = new Date().toISOString();
  const rows = vms.flatMap(({ uuid, repository, chains }) =>
    chains.map(({ id, state, size, endedReason }): ChainTable => ({
      id,
      vm_uuid: uuid,
      repository,
      state,
      size,
      ended_reason: endedReason,
      created_at: now,
      ended_at: state === 'ended' ? now : null,
    })),
  );
  for (const some of batches(rows, 500)) {
    await trx
      .insertInto('chains')
      .values(some)
      .onConflict((conflict) =>
        conflict.column('id').doUpdateSet((column) => ({
          state: column.ref('excluded.state'),
          size: column.ref('excluded.size'),
          ended_reason: column.ref('excluded.ended_reason'),
          ended_at: column.fn.coalesce('chains.ended_at', 'excluded.ended_at'),
        })),
      )
      .execute();
  }
  for (const { id, state } of rows) if (state === 'ended') await retireChain(trx, id);
}

async function putBackups(trx: Transaction<Tables>, rows: BackupTable[]): Promise<void> {
  await trx
    .insertInto('backups')
    .values(rows)
    .onConflict((conflict) =>
      conflict.column('id').doUpdateSet((column) => ({
        vm_name: column.ref('excluded.vm_name'),
        host: column.ref('excluded.host'),
        requested_by: column.fn.coalesce('backups.requested_by', 'excluded.requested_by'),
        offering: column.fn.coalesce('backups.offering', 'excluded.offering'),
        type: column.ref('excluded.type'),
        state: column.ref('excluded.state'),
        parent_id: column.ref('excluded.parent_id'),
        chain_id: column.ref('excluded.chain_id'),
        position: column.ref('excluded.position'),
        isolated: column.ref('excluded.isolated'),
        end_of_chain: column.ref('excluded.end_of_chain'),
        consistency: column.ref('excluded.consistency'),
        instant: column.ref('excluded.instant'),
        sort_time: column.ref('excluded.sort_time'),
        codec: column.ref('excluded.codec'),
        compression: column.ref('excluded.compression'),
        validation: column.ref('excluded.validation'),
        stored_bytes: column.ref('excluded.stored_bytes'),
        duration_ms: column.ref('excluded.duration_ms'),
        damage: column.ref('excluded.damage'),
        failure_type: column.ref('excluded.failure_type'),
        failure_message: column.ref('excluded.failure_message'),
      })),
    )
    .execute();
}

async function putDisks(trx: Transaction<Tables>, backups: readonly RescannedBackup[]): Promise<void> {
  for (const some of batches(backups, 500)) {
    const rows = some.flatMap(({ id, disks }) => disks.map((disk) => toDiskRow(id, disk)));
    const ids = some.map(({ id }) => id);
    const kept = await trx
      .selectFrom('backup_disks')
      .select(['backup_id', 'target', 'file', 'sums_sha256', 'verified_at', 'damage'])
      .where('backup_id', 'in', ids)
      .execute();
    // What a check found of a file holds as long as it is the same file.
    const checked = new Map(kept.map((row) => [`${row.backup_id} ${row.target} ${row.sums_sha256}`, row]));
    await trx.deleteFrom('backup_disks').where('backup_id', 'in', ids).execute();
    for (const batch of batches(rows, 500)) {
      const values = batch.map((row) => {
        const before = checked.get(`${row.backup_id} ${row.target} ${row.sums_sha256}`);
        return { ...row, verified_at: before?.verified_at ?? null, damage: before?.damage ?? null };
      });
      await trx.insertInto('backup_disks').values(values).execute();
    }
  }
}

async function putCheckpoints(trx: Transaction<Tables>, vms: readonly RescannedVm[]): Promise<void> {
  const rows = vms.flatMap(({ uuid, checkpoints }) =>
    checkpoints.map(({ backupId, state }) => ({ vm_uuid: uuid, backup_id: backupId, state, xml: null })),
  );
  for (const some of batches(rows, 500)) {
    await trx
      .insertInto('checkpoints')
      .values(some)
      .onConflict((conflict) =>
        conflict.columns(['vm_uuid', 'backup_id']).doUpdateSet((column) => ({ state: column.ref('excluded.state') })),
      )
      .execute();
  }
}

async function putValidation(trx: Transaction<Tables>, id: string, result: ValidationResult | null): Promise<void> {
  if (result === null) return;
  const booted = result.steps.some(({ step, result: outcome }) => step === 'boot' && outcome === 'passed');
  await trx
    .updateTable('backups')
    .set({
      validation_result: JSON.stringify(result),
      validated_at: result.validatedAt,
      ...(booted && result.bootMs !== null ? { booted_at: result.validatedAt, boot_ms: result.bootMs } : {}),
    })
    .where('id', '=', id)
    .where('validated_at', 'is', null) // what the catalog knows is not older than the manifest
    .execute();
}

const toRow = (
  { uuid, repository }: RescannedVm,
  backup: RescannedBackup,
  { workflowId, runId }: { workflowId: string; runId: string },
  now: string,
): BackupTable => ({
  id: backup.id,
  vm_uuid: uuid,
  vm_name: backup.vmName,
  type: backup.type,
  state: backup.state,
  parent_id: backup.parentId,
  chain_id: backup.chainId,
  position: backup.position,
  isolated: Number(backup.isolated),
  end_of_chain: Number(backup.endOfChain),
  consistency: backup.consistency,
  instant: backup.instant,
  host: backup.host,
  repository,
  codec: backup.codec,
  strategy: backup.strategy,
  offering: backup.offering,
  requested_by: backup.requestedBy,
  ...UNTOUCHED,
  damage: backup.damage,
  compression: backup.compression,
  validation: backup.validation,
  stored_bytes: backup.disks.reduce((sum, disk) => sum + disk.storedBytes, 0),
  duration_ms: backup.durationMs,
  workflow_id: workflowId,
  run_id: runId,
  created_at: backup.instant ?? now,
  sort_time: new Date(backup.instant ?? now).toISOString(),
  failure_type: backup.failure?.type ?? null,
  failure_message: backup.failure?.message ?? null,
});
