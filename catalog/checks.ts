import { sql } from 'kysely';
import type { CheckPlace, FileToCheck } from '../schemas/check.ts';
import type { BackupState } from '../schemas/states.ts';
import { batches } from './batches.ts';
import type { Database } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** Backups that have their files, or should. */
const HAVE_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed', 'Error'];

export interface CheckFilter {
  repository: string;
  vmUuid: string | null;
  /** Only files that were neither written nor verified since. */
  before: string;
}

/** What was found of a stored file. */
export interface FileVerdict {
  backupId: string;
  target: string;
  file: string;
  /** null: its bytes are right. */
  damage: string | null;
}

export interface CheckQueries {
  /** Files in the order in which they were verified last, or written, from the one after `after` on. */
  files(filter: CheckFilter, options: { after: CheckPlace | null; limit: number }): Promise<FileToCheck[]>;
  /** How many there are of any age, and how many bytes the `limit` oldest have. */
  count(filter: CheckFilter, limit?: number): Promise<{ files: number; bytes: number }>;
  /** Since when the oldest is not verified; null without files. */
  unverifiedSince(repository: string, vmUuid: string | null): Promise<string | null>;
  /** Notes when files were verified, and what was found. A file that was replaced meanwhile is left alone. */
  note(verdicts: FileVerdict[], at: string): Promise<void>;
  /** What is known to be wrong with files of these backups, by file. */
  damagedFiles(backupIds: string[]): Promise<Map<string, string>>;
  /** Of these backups the files whose bytes were found right since then. */
  verifiedFiles(backupIds: string[], since: string): Promise<Set<string>>;
  /** Nothing is wrong with these backups any more: a mark goes, and a backup that was `Error` for its files is `BackedUp`. */
  heal(backupIds: string[]): Promise<void>;
  /** Backups of the repository that are marked as damaged. */
  marked(repository: string): Promise<{ id: string; vmUuid: string }[]>;
}

export const checkQueries = (database: Database): CheckQueries => {
  const { db } = database;
  const age = sql<string>`coalesce(backup_disks.verified_at, backups.sort_time)`;
  const stored = ({ repository, vmUuid }: Pick<CheckFilter, 'repository' | 'vmUuid'>) => {
    const query = db
      .selectFrom('backup_disks')
      .innerJoin('backups', 'backups.id', 'backup_disks.backup_id')
      .where('backups.repository', '=', repository)
      .where('backups.state', 'in', HAVE_FILES)
      .where('backups.instant', 'is not', null);
    return vmUuid === null ? query : query.where('backups.vm_uuid', '=', vmUuid);
  };
  return {
    async files(filter, { after, limit }) {
      let query = stored(filter)
        .select(['backups.id', 'backups.vm_uuid', 'backups.vm_name', 'target', 'file', 'backup_disks.stored_bytes'])
        .select(age.as('age'))
        .where(age, '<', filter.before)
        .orderBy(age)
        .orderBy('backups.id')
        .orderBy('target')
        .limit(limit);
      if (after !== null) {
        const { unverifiedSince, backupId, target } = after;
        query = query.where(
          sql<boolean>`(${age}, backups.id, backup_disks.target) > (${unverifiedSince}, ${backupId}, ${target})`,
        );
      }
      return (await query.execute()).map((row) => ({
        unverifiedSince: row.age,
        backupId: row.id,
        target: row.target,
        vm: { uuid: row.vm_uuid, name: row.vm_name },
        file: row.file,
        storedBytes: row.stored_bytes,
      }));
    },

    async count(filter, limit) {
      const some = stored(filter)
        .select('backup_disks.stored_bytes')
        .where(age, '<', filter.before)
        .orderBy(age)
        .orderBy('backups.id')
        .orderBy('target')
        .limit(limit ?? 2 ** 31 - 1);
      const row = await db
        .selectFrom(some.as('some'))
        .select(({ fn }) => [
          fn.countAll<number | string>().as('files'),
          fn.sum<number | string>('stored_bytes').as('bytes'),
        ])
        .executeTakeFirst();
      return { files: Number(row?.files ?? 0), bytes: Number(row?.bytes ?? 0) };
    },

    async unverifiedSince(repository, vmUuid) {
      const row = await stored({ repository, vmUuid }).select(age.as('age')).orderBy(age).limit(1).executeTakeFirst();
      return row?.age ?? null;
    },

    async note(verdicts, at) {
      await oneAtATime(database, 'backups', async (trx) => {
        for (const { backupId, target, file, damage } of verdicts) {
          await trx
            .updateTable('backup_disks')
            .set({ verified_at: at, damage })
            .where('backup_id', '=', backupId)
            .where('target', '=', target)
            .where('file', '=', file)
            .execute();
        }
      });
    },

    async damagedFiles(backupIds) {
      const found = new Map<string, string>();
      for (const ids of batches(backupIds, 1000)) {
        const rows = await db
          .selectFrom('backup_disks')
          .select(['file', 'damage'])
          .where('backup_id', 'in', ids)
          .where('damage', 'is not', null)
          .orderBy('file')
          .execute();
        for (const { file, damage } of rows) found.set(file, damage ?? '');
      }
      return found;
    },

    async verifiedFiles(backupIds, since) {
      const found = new Set<string>();
      for (const ids of batches(backupIds, 1000)) {
        const rows = await db
          .selectFrom('backup_disks')
          .select('file')
          .where('backup_id', 'in', ids)
          .where('damage', 'is', null)
          .where('verified_at', '>=', since)
          .execute();
        for (const { file } of rows) found.add(file);
      }
      return found;
    },

    async heal(backupIds) {
      if (backupIds.length === 0) return;
      await oneAtATime(database, 'backups', async (trx) => {
        await trx.updateTable('backups').set({ damage: null }).where('id', 'in', backupIds).execute();
        await trx
          .updateTable('backups')
          .set({ state: 'BackedUp', failure_type: null, failure_message: null })
          .where('id', 'in', backupIds)
          .where('state', '=', 'Error')
          .where('failure_type', 'in', ['BackupFileMissing', 'IntegrityMismatch'])
          .execute();
      });
    },

    async marked(repository) {
      const rows = await db
        .selectFrom('backups')
        .select(['id', 'vm_uuid'])
        .where('repository', '=', repository)
        .where('damage', 'is not', null)
        .where('instant', 'is not', null)
        .where('state', 'in', HAVE_FILES)
        .orderBy('id')
        .execute();
      return rows.map(({ id, vm_uuid }) => ({ id, vmUuid: vm_uuid }));
    },
  };
};
