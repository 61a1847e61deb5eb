import { sql, type Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** The stored files of copies: when their bytes were last compared with their hashes, and what was wrong with them. */
export const filesOfCopies = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    await db.schema
      .createTable('backup_copy_disks')
      .addColumn('backup_id', text, (column) => column.notNull().references('backups.id').onDelete('cascade'))
      .addColumn('repository', text, (column) => column.notNull())
      .addColumn('target', text, (column) => column.notNull())
      .addColumn('file', text, (column) => column.notNull())
      .addColumn('stored_bytes', engine === 'postgres' ? 'bigint' : 'integer', (column) => column.notNull())
      .addColumn('copied_at', text, (column) => column.notNull())
      .addColumn('verified_at', text)
      .addColumn('damage', text)
      .addPrimaryKeyConstraint('backup_copy_disks_key', ['backup_id', 'repository', 'target'])
      .execute();
    await db.schema.createIndex('backup_copy_disks_in').on('backup_copy_disks').columns(['repository']).execute();
    const json = engine === 'postgres' ? 'jsonb_array_elements(disks::jsonb)' : 'json_each(disks)';
    const of = (name: string) =>
      sql.raw(engine === 'postgres' ? `each.value->>'${name}'` : `json_extract(each.value, '$.${name}')`);
    await sql`
      insert into backup_copy_disks (backup_id, repository, target, file, stored_bytes, copied_at)
      select backup_id, repository, ${of('target')}, ${of('file')}, cast(${of('storedBytes')} as bigint), copied_at
      from backup_copies, ${sql.raw(json)} as each${sql.raw(engine === 'postgres' ? '(value)' : '')}
      where copied_at is not null`.execute(db);
  },
});
