import type { EventQueries } from './contract.ts';
import type { Database } from './database.ts';

const DEFAULT_LIMIT = 100;

/** What happened, for people. Append-only: no step decides by it. */
export const eventQueries = ({ db }: Database): EventQueries => ({
  async record({ at, kind, vmUuid = null, backupId = null, message, detail }) {
    await db
      .insertInto('events')
      .values({
        at,
        kind,
        vm_uuid: vmUuid,
        backup_id: backupId,
        message,
        detail: detail === undefined ? null : JSON.stringify(detail),
      })
      .execute();
  },

  async list({ vmUuid, since, limit = DEFAULT_LIMIT } = {}) {
    let query = db.selectFrom('events').selectAll().orderBy('id', 'desc').limit(limit);
    if (vmUuid !== undefined) query = query.where('vm_uuid', '=', vmUuid);
    if (since !== undefined) query = query.where('at', '>=', since);
    return (await query.execute()).map(({ at, kind, vm_uuid, backup_id, message, detail }) => ({
      at,
      kind,
      vmUuid: vm_uuid,
      backupId: backup_id,
      message,
      detail: detail === null ? null : (JSON.parse(detail) as unknown),
    }));
  },
});
