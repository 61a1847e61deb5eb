import { sql } from 'kysely';
import type { Kysely } from 'kysely';
import type { Migration } from 'kysely/migration';
import type { Engine } from '../database.ts';

/** Everything the first version knows. `database.ts` says what the columns mean. */
export const firstCatalog = (engine: Engine): Migration => ({
  async up(db: Kysely<unknown>): Promise<void> {
    // By bytes, as SQLite does it: with a language's collation PostgreSQL would sort ids and times otherwise.
    const text = engine === 'postgres' ? sql`text collate "C"` : 'text';
    const integer = engine === 'postgres' ? 'bigint' : 'integer';
    const counter = engine === 'postgres' ? 'bigserial' : 'integer';

    await db.schema
      .createTable('hosts')
      .addColumn('name', text, (column) => column.primaryKey().notNull())
      .addColumn('slots', integer, (column) => column.notNull())
      .addColumn('libvirt_address', text)
      .addColumn('libvirt_version', text)
      .addColumn('qemu_version', text)
      .addColumn('last_seen_at', text)
      .execute();

    await db.schema
      .createTable('vms')
      .addColumn('uuid', text, (column) => column.primaryKey().notNull())
      .addColumn('name', text, (column) => column.notNull())
      .addColumn('host', text, (column) => column.notNull())
      .addColumn('power', text, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('error', text)
      .addColumn('offering', text)
      .addColumn('last_seen_at', text)
      .addColumn('disks', text, (column) => column.notNull())
      .execute();
    await db.schema.createIndex('vms_name').on('vms').column('name').execute();
    await db.schema.createIndex('vms_host').on('vms').column('host').execute();

    await db.schema
      .createTable('sightings')
      .addColumn('uuid', text, (column) => column.notNull())
      .addColumn('host', text, (column) => column.notNull())
      .addColumn('name', text, (column) => column.notNull())
      .addColumn('power', text, (column) => column.notNull())
      .addColumn('disks', text, (column) => column.notNull())
      .addColumn('seen_at', text, (column) => column.notNull())
      .addPrimaryKeyConstraint('sightings_key', ['uuid', 'host'])
      .execute();
    await db.schema.createIndex('sightings_host').on('sightings').column('host').execute();

    await db.schema
      .createTable('repositories')
      .addColumn('name', text, (column) => column.primaryKey().notNull())
      .addColumn('id', text, (column) => column.notNull().unique())
      .addColumn('location', text, (column) => column.notNull())
      .addColumn('slots', integer, (column) => column.notNull())
      .addColumn('created_at', text, (column) => column.notNull())
      .execute();

    await db.schema
      .createTable('offerings')
      .addColumn('name', text, (column) => column.primaryKey().notNull())
      .addColumn('settings', text, (column) => column.notNull())
      .execute();

    await db.schema
      .createTable('chains')
      .addColumn('id', text, (column) => column.primaryKey().notNull())
      .addColumn('vm_uuid', text, (column) => column.notNull())
      .addColumn('repository', text, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('size', integer, (column) => column.notNull())
      .addColumn('ended_reason', text)
      .addColumn('created_at', text, (column) => column.notNull())
      .addColumn('ended_at', text)
      .execute();
    await db.schema
      .createIndex('chains_open')
      .on('chains')
      .columns(['vm_uuid', 'repository'])
      .where(sql.ref('state'), '=', sql.lit('open'))
      .execute();

    await db.schema
      .createTable('backups')
      .addColumn('id', text, (column) => column.primaryKey().notNull())
      .addColumn('vm_uuid', text, (column) => column.notNull())
      .addColumn('vm_name', text, (column) => column.notNull())
      .addColumn('type', text, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('parent_id', text, (column) => column.references('backups.id'))
      .addColumn('chain_id', text, (column) => column.references('chains.id'))
      .addColumn('position', integer)
      .addColumn('isolated', integer, (column) => column.notNull())
      .addColumn('end_of_chain', integer, (column) => column.notNull())
      .addColumn('consistency', text)
      .addColumn('instant', text)
      .addColumn('host', text, (column) => column.notNull())
      .addColumn('repository', text, (column) => column.notNull())
      .addColumn('codec', text, (column) => column.notNull())
      .addColumn('compression', text, (column) => column.notNull())
      .addColumn('validation', text, (column) => column.notNull())
      .addColumn('stored_bytes', integer, (column) => column.notNull())
      .addColumn('duration_ms', integer, (column) => column.notNull())
      .addColumn('workflow_id', text, (column) => column.notNull())
      .addColumn('run_id', text, (column) => column.notNull())
      .addColumn('created_at', text, (column) => column.notNull())
      .addColumn('sort_time', text, (column) => column.notNull())
      .addColumn('failure_type', text)
      .addColumn('failure_message', text)
      .execute();
    await db.schema.createIndex('backups_newest').on('backups').columns(['sort_time', 'id']).execute();
    await db.schema.createIndex('backups_of_vm').on('backups').columns(['vm_uuid', 'sort_time', 'id']).execute();
    await db.schema.createIndex('backups_of_name').on('backups').columns(['vm_name', 'sort_time', 'id']).execute();
    await db.schema.createIndex('backups_of_chain').on('backups').column('chain_id').execute();
    await db.schema.createIndex('backups_of_parent').on('backups').column('parent_id').execute();
    await db.schema
      .createIndex('backups_unfinished')
      .on('backups')
      .column('vm_uuid')
      .where(sql.ref('state'), '=', sql.lit('BackingUp'))
      .execute();

    await db.schema
      .createTable('backup_disks')
      .addColumn('backup_id', text, (column) => column.notNull().references('backups.id').onDelete('cascade'))
      .addColumn('target', text, (column) => column.notNull())
      .addColumn('number', integer, (column) => column.notNull())
      .addColumn('serial', text)
      .addColumn('source_path', text)
      .addColumn('source_format', text, (column) => column.notNull())
      .addColumn('virtual_size_bytes', integer, (column) => column.notNull())
      .addColumn('type', text, (column) => column.notNull())
      .addColumn('full_reason', text)
      .addColumn('file', text, (column) => column.notNull())
      .addColumn('backing_file', text)
      .addColumn('changed_bytes', integer, (column) => column.notNull())
      .addColumn('read_bytes', integer, (column) => column.notNull())
      .addColumn('stored_bytes', integer, (column) => column.notNull())
      .addColumn('cluster_bytes', integer, (column) => column.notNull())
      .addColumn('sums_file', text, (column) => column.notNull())
      .addColumn('sums_sha256', text, (column) => column.notNull())
      .addColumn('sums_segments', integer, (column) => column.notNull())
      .addPrimaryKeyConstraint('backup_disks_key', ['backup_id', 'target'])
      .execute();

    await db.schema
      .createTable('checkpoints')
      .addColumn('vm_uuid', text, (column) => column.notNull())
      .addColumn('backup_id', text, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('xml', text)
      .addPrimaryKeyConstraint('checkpoints_key', ['vm_uuid', 'backup_id'])
      .execute();
    await db.schema
      .createTable('admissions')
      .addColumn('operation_id', text, (column) => column.primaryKey().notNull())
      .addColumn('operation', text, (column) => column.notNull())
      .addColumn('workflow_id', text, (column) => column.notNull())
      .addColumn('run_id', text, (column) => column.notNull())
      .addColumn('vm_uuid', text)
      .addColumn('chain_id', text)
      .addColumn('chain_mode', text)
      .addColumn('host', text)
      .addColumn('repository', text)
      .addColumn('tenant', text, (column) => column.notNull())
      .addColumn('priority', integer, (column) => column.notNull())
      .addColumn('state', text, (column) => column.notNull())
      .addColumn('place', integer, (column) => column.notNull().unique())
      .addColumn('waited_for', text, (column) => column.notNull())
      .addColumn('requested_at', text, (column) => column.notNull())
      .execute();
    await db.schema
      .createIndex('admissions_granted')
      .on('admissions')
      .column('operation_id')
      .where(sql.ref('state'), '=', sql.lit('granted'))
      .execute();
    // The last wall: whatever the dispatcher does, a VM is granted once.
    await db.schema
      .createIndex('admissions_one_per_vm')
      .unique()
      .on('admissions')
      .column('vm_uuid')
      .where(sql.ref('state'), '=', sql.lit('granted'))
      .execute();

    await db.schema
      .createTable('events')
      .addColumn('id', counter, (column) =>
        engine === 'postgres' ? column.primaryKey() : column.primaryKey().autoIncrement(),
      )
      .addColumn('at', text, (column) => column.notNull())
      .addColumn('kind', text, (column) => column.notNull())
      .addColumn('vm_uuid', text)
      .addColumn('backup_id', text)
      .addColumn('message', text, (column) => column.notNull())
      .execute();
    await db.schema.createIndex('events_of_vm').on('events').columns(['vm_uuid', 'id']).execute();
  },
});
