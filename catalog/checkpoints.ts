import type { Transaction } from 'kysely';
import { HoldfastError } from '../schemas/failures.ts';
import type { CheckpointQueries } from './contract.ts';
import type { CheckpointTable, Database, Tables } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** How many stay on a VM where nobody says otherwise. */
const DEFAULT_KEEP = 2;

export const checkpointQueries = (database: Database): CheckpointQueries => ({
  async list(vmUuid) {
    const rows = await database.db
      .selectFrom('checkpoints')
      .selectAll()
      .where('vm_uuid', '=', vmUuid)
      .orderBy('backup_id')
      .execute();
    return rows.map(({ vm_uuid, backup_id, state, xml }) => ({ vmUuid: vm_uuid, backupId: backup_id, state, xml }));
  },

  async put({ vmUuid, backupId, state, xml }) {
    await oneAtATime(database, 'backups', async (trx) => {
      await trx
        .insertInto('checkpoints')
        .values({ vm_uuid: vmUuid, backup_id: backupId, state, xml })
        .onConflict((conflict) => conflict.columns(['vm_uuid', 'backup_id']).doUpdateSet({ state, xml }))
        .execute();
      if (state === 'current') await putInFront(trx, vmUuid, backupId, DEFAULT_KEEP);
    });
  },

  async promote(vmUuid, backupId, keep = DEFAULT_KEEP) {
    await oneAtATime(database, 'backups', async (trx) => {
      const checkpoint = await trx
        .selectFrom('checkpoints')
        .select('state')
        .where('vm_uuid', '=', vmUuid)
        .where('backup_id', '=', backupId)
        .executeTakeFirst();
      if (checkpoint === undefined) {
        throw new HoldfastError(
          'CheckpointLost',
          `checkpoint of backup ${backupId} is not in the catalog; it cannot become the parent`,
        );
      }
      // A late second attempt must not put an older checkpoint back in front of the one promoted since.
      if (checkpoint.state !== 'pending') return;
      await setState(trx, vmUuid, [backupId], 'current');
      await putInFront(trx, vmUuid, backupId, keep);
    });
  },

  async retire(vmUuid, repository) {
    await oneAtATime(database, 'backups', async (trx) => {
      const live = (await liveOnes(trx, vmUuid)).filter((one) => (one.repository ?? undefined) === repository);
      await setState(trx, vmUuid, idsOf(live), 'retired');
    });
  },

  async retireOf(vmUuid, backupIds) {
    await oneAtATime(database, 'backups', async (trx) => {
      const live = (await liveOnes(trx, vmUuid)).filter((one) => backupIds.includes(one.backup_id));
      await setState(trx, vmUuid, idsOf(live), 'retired');
    });
  },

  async remove(vmUuid, backupId) {
    await database.db
      .deleteFrom('checkpoints')
      .where('vm_uuid', '=', vmUuid)
      .where('backup_id', '=', backupId)
      .execute();
  },
});

/** Nothing builds on the checkpoints of a chain that is over. */
export async function retireChain(trx: Transaction<Tables>, chainId: string): Promise<void> {
  await trx
    .updateTable('checkpoints')
    .set({ state: 'retired' })
    .where('state', 'in', ['current', 'kept'])
    .where('backup_id', 'in', (from) => from.selectFrom('backups').select('id').where('chain_id', '=', chainId))
    .execute();
}

type Live = Awaited<ReturnType<typeof liveOnes>>[number];

/** Newest first. A VM may be backed up to several repositories: each has a chain, and so parents, of its own. */
const liveOnes = (trx: Transaction<Tables>, vmUuid: string) =>
  trx
    .selectFrom('checkpoints')
    .leftJoin('backups', 'backups.id', 'checkpoints.backup_id')
    .select([
      'checkpoints.backup_id',
      'checkpoints.state',
      'backups.repository',
      'backups.chain_id',
      'backups.sort_time',
      'backups.damage',
    ])
    .where('checkpoints.vm_uuid', '=', vmUuid)
    .where('checkpoints.state', 'in', ['current', 'kept'])
    .orderBy('backups.sort_time', 'desc')
    .orderBy('backups.position', 'desc')
    .execute();

/**
 * The `current` one is `backupId` now. Of its chain the youngest stay, `keep` in all; those of other chains of the
 * repository, and of backups that cannot be built on, do not.
 */
async function putInFront(trx: Transaction<Tables>, vmUuid: string, backupId: string, keep: number): Promise<void> {
  const live = await liveOnes(trx, vmUuid);
  const front = live.find((one) => one.backup_id === backupId);
  const others = live.filter((one) => one.backup_id !== backupId && one.repository === front?.repository);
  const useful = others.filter((one) => one.chain_id === front?.chain_id && one.damage === null);
  const kept = useful.slice(0, keep - 1);
  await setState(trx, vmUuid, idsOf(kept), 'kept');
  await setState(trx, vmUuid, idsOf(others.filter((one) => !kept.includes(one))), 'retired');
}

const idsOf = (checkpoints: readonly Live[]): string[] => checkpoints.map(({ backup_id }) => backup_id);

async function setState(
  trx: Transaction<Tables>,
  vmUuid: string,
  backupIds: readonly string[],
  state: CheckpointTable['state'],
): Promise<void> {
  if (backupIds.length === 0) return; // `in ()` is no SQL
  await trx
    .updateTable('checkpoints')
    .set({ state })
    .where('vm_uuid', '=', vmUuid)
    .where('backup_id', 'in', backupIds)
    .execute();
}
