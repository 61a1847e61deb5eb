import { sql, type Kysely } from 'kysely';
import type { CheckPlace, FileToCheck } from '../schemas/check.ts';
import type { CopyState } from '../schemas/copy.ts';
import type { BackupState } from '../schemas/states.ts';
import { batches } from './batches.ts';
import type { Database, Tables } from './database.ts';
import { oneAtATime } from './transaction.ts';

/** Backups that have their files, or should; and copies. */
const HAVE_FILES: BackupState[] = ['BackedUp', 'Restoring', 'Removed', 'Error'];
const COPIES_WITH_FILES: CopyState[] = ['Copied', 'Removed'];

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

/** Of originals and of copies, which lie in a repository side by side. */
export interface CheckQueries {
  /** Files in the order in which they were verified last, or written, from the one after `after` on. */
  files(filter: CheckFilter, options: { after: CheckPlace | null; limit: number }): Promise<FileToCheck[]>;
  /** How many there are of any age, and how many bytes the `limit` oldest have. */
  count(filter: CheckFilter, limit?: number): Promise<{ files: number; bytes: number }>;
  /** Since when the oldest is not verified; null without files. */
  unverifiedSince(repository: string, vmUuid: string | null): Promise<string | null>;
  /** Notes when files of the repository were verified, and what was found. One that was replaced meanwhile is left alone. */
  note(repository: string, verdicts: FileVerdict[], at: string): Promise<void>;
  /** What is known to be wrong with the repository's files of these backups, by file. */
  damagedFiles(repository: string, backupIds: string[]): Promise<Map<string, string>>;
  /** Of these backups the repository's files whose bytes were found right since then. */
  verifiedFiles(repository: string, backupIds: string[], since: string): Promise<Set<string>>;
  /** Nothing is wrong with these there any more: a mark goes, and a backup that was `Error` for its files is `BackedUp`. */
  heal(repository: string, backupIds: string[]): Promise<void>;
  /** Backups of the repository that are marked as damaged. */
  marked(repository: string): Promise<{ id: string; vmUuid: string }[]>;
}

export const checkQueries = (database: Database): CheckQueries => {
  const { db } = database;
  /** All files of a repository, whoever they belong to. */
  const stored = ({ repository, vmUuid }: Pick<CheckFilter, 'repository' | 'vmUuid'>) => {
    const originals = db
      .selectFrom('backup_disks')
      .innerJoin('backups', 'backups.id', 'backup_disks.backup_id')
      .where('backups.repository', '=', repository)
      .where('backups.state', 'in', HAVE_FILES)
      .where('backups.instant', 'is not', null)
      .$if(vmUuid !== null, (query) => query.where('backups.vm_uuid', '=', vmUuid ?? ''))
      .select(['backups.id as backup_id', 'backups.vm_uuid', 'backups.vm_name', 'target', 'file'])
      .select(['backup_disks.stored_bytes', 'backup_disks.verified_at', 'backup_disks.damage'])
      .select(sql<string>`coalesce(backup_disks.verified_at, backups.sort_time)`.as('age'));
    const copies = db
      .selectFrom('backup_copy_disks')
      .innerJoin('backups', 'backups.id', 'backup_copy_disks.backup_id')
      .innerJoin('backup_copies', (join) =>
        join
          .onRef('backup_copies.backup_id', '=', 'backup_copy_disks.backup_id')
          .onRef('backup_copies.repository', '=', 'backup_copy_disks.repository'),
      )
      .where('backup_copy_disks.repository', '=', repository)
      .where('backup_copies.state', 'in', COPIES_WITH_FILES)
      .$if(vmUuid !== null, (query) => query.where('backups.vm_uuid', '=', vmUuid ?? ''))
      .select(['backups.id as backup_id', 'backups.vm_uuid', 'backups.vm_name', 'target', 'file'])
      .select(['backup_copy_disks.stored_bytes', 'backup_copy_disks.verified_at', 'backup_copy_disks.damage'])
      .select(sql<string>`coalesce(backup_copy_disks.verified_at, backup_copy_disks.copied_at)`.as('age'));
    return db.selectFrom(originals.unionAll(copies).as('stored'));
  };
  return {
    async files(filter, { after, limit }) {
      let query = stored(filter)
        .selectAll()
        .where('age', '<', filter.before)
        .orderBy('age')
        .orderBy('backup_id')
        .orderBy('target')
        .limit(limit);
      if (after !== null) {
        const { unverifiedSince, backupId, target } = after;
        query = query.where(sql<boolean>`(age, backup_id, target) > (${unverifiedSince}, ${backupId}, ${target})`);
      }
      return (await query.execute()).map((row) => ({
        unverifiedSince: row.age,
        backupId: row.backup_id,
        target: row.target,
        vm: { uuid: row.vm_uuid, name: row.vm_name },
        file: row.file,
        storedBytes: row.stored_bytes,
      }));
    },

    async count(filter, limit) {
      const some = stored(filter)
        .select('stored_bytes')
        .where('age', '<', filter.before)
        .orderBy('age')
        .orderBy('backup_id')
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
      const row = await stored({ repository, vmUuid }).select('age').orderBy('age').limit(1).executeTakeFirst();
      return row?.age ?? null;
    },

    async note(repository, verdicts, at) {
      await oneAtATime(database, 'backups', async (trx) => {
        for (const { backupId, target, file, damage } of verdicts) {
          const found = { verified_at: at, damage };
          await trx
            .updateTable('backup_disks')
            .set(found)
            .where('backup_id', 'in', idsIn(trx, repository, [backupId]))
            .where('target', '=', target)
            .where('file', '=', file)
            .execute();
          await trx
            .updateTable('backup_copy_disks')
            .set(found)
            .where('backup_id', '=', backupId)
            .where('repository', '=', repository)
            .where('target', '=', target)
            .where('file', '=', file)
            .execute();
        }
        await noteWholeCopies(
          trx,
          repository,
          verdicts.map(({ backupId }) => backupId),
        );
      });
    },

    async damagedFiles(repository, backupIds) {
      const found = new Map<string, string>();
      for (const ids of batches(backupIds, 1000)) {
        const rows = await stored({ repository, vmUuid: null })
          .select(['file', 'damage'])
          .where('backup_id', 'in', ids)
          .where('damage', 'is not', null)
          .orderBy('file')
          .execute();
        for (const { file, damage } of rows) found.set(file, damage ?? '');
      }
      return found;
    },

    async verifiedFiles(repository, backupIds, since) {
      const found = new Set<string>();
      for (const ids of batches(backupIds, 1000)) {
        const rows = await stored({ repository, vmUuid: null })
          .select('file')
          .where('backup_id', 'in', ids)
          .where('damage', 'is', null)
          .where('verified_at', '>=', since)
          .execute();
        for (const { file } of rows) found.add(file);
      }
      return found;
    },

    async heal(repository, backupIds) {
      if (backupIds.length === 0) return;
      await oneAtATime(database, 'backups', async (trx) => {
        const ids = idsIn(trx, repository, backupIds);
        await trx.updateTable('backups').set({ damage: null }).where('id', 'in', ids).execute();
        await trx
          .updateTable('backups')
          .set({ state: 'BackedUp', failure_type: null, failure_message: null })
          .where('id', 'in', ids)
          .where('state', '=', 'Error')
          .where('failure_type', 'in', ['BackupFileMissing', 'IntegrityMismatch'])
          .execute();
        await trx
          .updateTable('backup_copies')
          .set({ damage: null })
          .where('repository', '=', repository)
          .where('backup_id', 'in', backupIds)
          .execute();
      });
    },

    async marked(repository) {
      const originals = db
        .selectFrom('backups')
        .select(['id', 'vm_uuid'])
        .where('repository', '=', repository)
        .where('damage', 'is not', null)
        .where('instant', 'is not', null)
        .where('state', 'in', HAVE_FILES);
      const copies = db
        .selectFrom('backup_copies')
        .innerJoin('backups', 'backups.id', 'backup_copies.backup_id')
        .select(['backups.id', 'backups.vm_uuid'])
        .where('backup_copies.repository', '=', repository)
        .where('backup_copies.damage', 'is not', null)
        .where('backup_copies.state', 'in', COPIES_WITH_FILES);
      const rows = await db.selectFrom(originals.unionAll(copies).as('marked')).selectAll().orderBy('id').execute();
      return rows.map(({ id, vm_uuid }) => ({ id, vmUuid: vm_uuid }));
    },
  };
};

/** Of these backups those that lie in the repository themselves. */
const idsIn = (db: Kysely<Tables>, repository: string, backupIds: string[]) =>
  db.selectFrom('backups').select('id').where('repository', '=', repository).where('id', 'in', backupIds);

/** A copy was verified when the last of its files was. */
async function noteWholeCopies(db: Kysely<Tables>, repository: string, backupIds: string[]): Promise<void> {
  if (backupIds.length === 0) return;
  await db
    .updateTable('backup_copies')
    .set({
      verified_at: sql<string | null>`(
        select case when count(*) = count(files.verified_at) then min(files.verified_at) end
        from backup_copy_disks as files
        where files.backup_id = backup_copies.backup_id and files.repository = backup_copies.repository)`,
    })
    .where('repository', '=', repository)
    .where('backup_id', 'in', backupIds)
    .execute();
}
