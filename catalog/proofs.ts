import type { ProofQueries } from './contract.ts';
import type { Database } from './database.ts';

export const proofQueries = ({ db }: Database): ProofQueries => ({
  async backups() {
    const rows = await db
      .selectFrom('backups')
      .select([
        'id',
        'vm_uuid',
        'vm_name',
        'type',
        'state',
        'instant',
        'repository',
        'stored_bytes',
        'validation',
        'validation_result',
        'validated_at',
        'booted_at',
        'boot_ms',
        'damage',
      ])
      .where('instant', 'is not', null)
      .orderBy('sort_time', 'desc')
      .execute();
    return rows.flatMap((row) => {
      const isThere = row.state === 'BackedUp' || row.state === 'Restoring';
      // What was deleted since still tells when its VM was tested.
      if (row.instant === null || (!isThere && row.validated_at === null)) return [];
      const triedBoot = row.validation_result?.includes('"step":"boot"') ?? false;
      return [
        {
          id: row.id,
          vm: { uuid: row.vm_uuid, name: row.vm_name },
          instant: row.instant,
          repository: row.repository,
          storedBytes: row.stored_bytes,
          isThere,
          isGood: isThere && row.damage === null && row.validation !== 'NotValid',
          testedAt: triedBoot ? row.validated_at : row.booted_at,
          provedAt: row.booted_at,
          validatedAt: row.validated_at,
          isValid: row.validation === 'Valid',
          bootMs: row.boot_ms,
        },
      ];
    });
  },

  async takenSince(since) {
    const rows = await db
      .selectFrom('backups')
      .selectAll()
      .where('sort_time', '>=', new Date(since).toISOString())
      .orderBy('sort_time', 'desc')
      .execute();
    return rows.map((row) => ({
      id: row.id,
      vm: { uuid: row.vm_uuid, name: row.vm_name },
      type: row.type,
      at: row.instant ?? row.created_at,
      stored: row.instant !== null,
      storedBytes: row.stored_bytes,
      durationMs: row.duration_ms,
      requestedBy: row.requested_by,
      runId: row.run_id,
      failure: row.failure_type === null ? null : { type: row.failure_type, message: row.failure_message ?? '' },
    }));
  },
});
