import { sql } from 'kysely';
import type { Transaction } from 'kysely';
import { vmSighting } from '../schemas/catalog.ts';
import type { VmRecord, VmSighting } from '../schemas/catalog.ts';
import { batches } from './batches.ts';
import type { VmQueries } from './contract.ts';
import type { Database, SightingTable, Tables, VmTable } from './database.ts';
import { oneAtATime } from './transaction.ts';

export const vmQueries = (database: Database): VmQueries => ({
  async list() {
    const rows = await database.db.selectFrom('vms').selectAll().orderBy('name').orderBy('uuid').execute();
    return rows.map(toRecord);
  },

  async findByNameOrUuid(nameOrUuid) {
    const rows = await database.db
      .selectFrom('vms')
      .selectAll()
      .where((where) => where.or([where('uuid', '=', nameOrUuid.toLowerCase()), where('name', '=', nameOrUuid)]))
      .orderBy('uuid')
      .execute();
    return rows.map(toRecord);
  },

  async find(uuid) {
    const row = await database.db.selectFrom('vms').selectAll().where('uuid', '=', uuid).executeTakeFirst();
    return row && toRecord(row);
  },

  async recordInventory(host, sightings, seenAt) {
    const time = new Date(seenAt).toISOString();
    await oneAtATime(database, 'vms', async (trx) => {
      const gone = await trx
        .deleteFrom('sightings')
        .where('host', '=', host)
        .where('seen_at', '<=', time)
        .returning('uuid')
        .execute();
      await noteSightings(trx, host, sightings, time);
      const attached = await trx.selectFrom('vms').select('uuid').where('host', '=', host).execute();
      const touched = new Set([...gone, ...sightings, ...attached].map(({ uuid }) => uuid));
      for (const uuids of batches([...touched], 500)) await settle(trx, uuids);
    });
  },

  async recordSighting(sighting, seenAt) {
    await oneAtATime(database, 'vms', async (trx) => {
      await noteSightings(trx, sighting.host, [sighting], new Date(seenAt).toISOString());
      await settle(trx, [sighting.uuid]);
    });
  },

  async recordAnswer(host, nameOrUuid, sightings, seenAt) {
    const time = new Date(seenAt).toISOString();
    await oneAtATime(database, 'vms', async (trx) => {
      const gone = await trx
        .deleteFrom('sightings')
        .where('host', '=', host)
        .where((where) => where.or([where('uuid', '=', nameOrUuid.toLowerCase()), where('name', '=', nameOrUuid)]))
        .where('seen_at', '<=', time)
        .returning('uuid')
        .execute();
      await noteSightings(trx, host, sightings, time);
      const touched = new Set([...gone, ...sightings].map(({ uuid }) => uuid));
      for (const uuids of batches([...touched], 500)) await settle(trx, uuids);
    });
  },

  async sightings(uuid) {
    const rows = await database.db
      .selectFrom('sightings')
      .selectAll()
      .where('uuid', '=', uuid)
      .orderBy('host')
      .execute();
    return rows.map(({ uuid, name, host, power, disks }) => ({ uuid, name, host, power, disks: parseDisks(disks) }));
  },

  async setState(uuid, state, error = null) {
    await database.db.updateTable('vms').set({ state, error }).where('uuid', '=', uuid).execute();
  },

  async setOffering(uuid, offering) {
    await database.db.updateTable('vms').set({ offering }).where('uuid', '=', uuid).execute();
  },
});

/** Newer sightings of the same VM on the same host stay: an inventory may take long, and be overtaken. */
async function noteSightings(
  trx: Transaction<Tables>,
  host: string,
  sightings: readonly VmSighting[],
  seenAt: string,
): Promise<void> {
  const rows = new Map<string, SightingTable>();
  for (const { uuid, name, power, disks } of sightings) {
    rows.set(uuid, { uuid, host, name, power, disks: JSON.stringify(disks), seen_at: seenAt });
  }
  for (const some of batches([...rows.values()], 500)) {
    await trx
      .insertInto('sightings')
      .values(some)
      .onConflict((conflict) =>
        conflict
          .columns(['uuid', 'host'])
          .doUpdateSet((column) => ({
            name: column.ref('excluded.name'),
            power: column.ref('excluded.power'),
            disks: column.ref('excluded.disks'),
            seen_at: column.ref('excluded.seen_at'),
          }))
          .whereRef('sightings.seen_at', '<=', 'excluded.seen_at'),
      )
      .execute();
  }
}

/** Brings VMs into line with what the hosts' last inventories say of them. */
async function settle(trx: Transaction<Tables>, uuids: readonly string[]): Promise<void> {
  const sightings = await trx.selectFrom('sightings').selectAll().where('uuid', 'in', uuids).execute();
  const sightingsOf = Map.groupBy(sightings, ({ uuid }) => uuid);
  const vms = await trx.selectFrom('vms').selectAll().where('uuid', 'in', uuids).execute();
  const vmOf = new Map(vms.map((vm) => [vm.uuid, vm]));
  const found: VmTable[] = [];
  for (const uuid of uuids) {
    const vm = vmOf.get(uuid);
    const seen = whereItIs(sightingsOf.get(uuid) ?? [], vm?.host);
    if (seen !== undefined) {
      const { name, host, power, disks, seen_at } = seen;
      found.push({ uuid, name, host, power, disks, last_seen_at: seen_at, state: 'Idle', error: null, offering: null });
    } else if (vm !== undefined) {
      await loseSight(trx, vm);
    }
  }
  if (found.length === 0) return;
  await trx
    .insertInto('vms')
    .values(found)
    .onConflict((conflict) =>
      conflict.column('uuid').doUpdateSet((column) => ({
        name: column.ref('excluded.name'),
        host: column.ref('excluded.host'),
        power: column.ref('excluded.power'),
        disks: column.ref('excluded.disks'),
        last_seen_at: column.ref('excluded.last_seen_at'),
      })),
    )
    .execute();
}

async function loseSight(trx: Transaction<Tables>, vm: VmTable): Promise<void> {
  if (await isWorthKeeping(trx, vm)) {
    // No host has it, so it does not run; where it was is all that is left to say.
    await trx.updateTable('vms').set({ power: 'shutoff' }).where('uuid', '=', vm.uuid).execute();
  } else {
    await trx.deleteFrom('vms').where('uuid', '=', vm.uuid).execute();
  }
}

/**
 * The sighting that counts. Of several hosts that define the VM: the one where it runs, and if it runs on none the
 * one it was on so far. While it migrates both run it; the newer inventory is right sooner or later.
 */
export function whereItIs<Sighting extends Pick<SightingTable, 'host' | 'power' | 'seen_at'>>(
  sightings: readonly Sighting[],
  hostSoFar: string | undefined,
): Sighting | undefined {
  const rank = ({ power, host }: Sighting): number =>
    power === 'running' ? 3 : host === hostSoFar ? 2 : power === 'shutoff' ? 0 : 1;
  return sightings.toSorted(
    (a, b) =>
      rank(b) - rank(a) ||
      (a.seen_at < b.seen_at ? 1 : a.seen_at > b.seen_at ? -1 : 0) ||
      Number(b.host === hostSoFar) - Number(a.host === hostSoFar),
  )[0];
}

/** A VM that no host has stays known if it has backups, or something that a person or a run has said of it. */
async function isWorthKeeping(trx: Transaction<Tables>, vm: VmTable): Promise<boolean> {
  if (vm.offering !== null || vm.state !== 'Idle') return true;
  const backup = await trx
    .selectFrom('backups')
    .select(sql.lit(1).as('one'))
    .where('vm_uuid', '=', vm.uuid)
    .limit(1)
    .executeTakeFirst();
  return backup !== undefined;
}

const toRecord = (row: VmTable): VmRecord => ({
  uuid: row.uuid,
  name: row.name,
  host: row.host,
  power: row.power,
  state: row.state,
  error: row.error,
  offering: row.offering,
  lastSeenAt: row.last_seen_at,
  disks: parseDisks(row.disks),
});

const parseDisks = (json: string): VmRecord['disks'] => vmSighting.shape.disks.parse(JSON.parse(json));
