import type { HostRecord } from '../schemas/catalog.ts';
import type { HostQueries } from './contract.ts';
import type { Database, HostTable } from './database.ts';

/** Data slots of a host that nobody has given a number. */
export const DEFAULT_HOST_SLOTS = 4;

export const hostQueries = ({ db }: Database): HostQueries => ({
  async list() {
    return (await db.selectFrom('hosts').selectAll().orderBy('name').execute()).map(toRecord);
  },

  async find(name) {
    const row = await db.selectFrom('hosts').selectAll().where('name', '=', name).executeTakeFirst();
    return row && toRecord(row);
  },

  async upsert(host) {
    const given = defined({
      slots: host.slots,
      libvirt_address: host.libvirtAddress,
      libvirt_version: host.libvirtVersion,
      qemu_version: host.qemuVersion,
      last_seen_at: host.lastSeenAt,
    });
    const row = await db
      .insertInto('hosts')
      .values({ slots: DEFAULT_HOST_SLOTS, ...given, name: host.name })
      .onConflict((conflict) => conflict.column('name').doUpdateSet({ ...given, name: host.name }))
      .returningAll()
      .executeTakeFirstOrThrow();
    return toRecord(row);
  },

  async remove(name) {
    await db.deleteFrom('hosts').where('name', '=', name).execute();
  },
});

const toRecord = (row: HostTable): HostRecord => ({
  name: row.name,
  slots: row.slots,
  libvirtAddress: row.libvirt_address,
  libvirtVersion: row.libvirt_version,
  qemuVersion: row.qemu_version,
  lastSeenAt: row.last_seen_at,
});

/** Without the keys whose value is undefined: those columns stay as they are. */
function defined<T extends object>(columns: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(columns).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
