import { existsSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';

/** What shell completion offers: names, each with a word of explanation. */
export interface CatalogNames {
  vms: CatalogName[];
  backups: CatalogName[];
  hosts: CatalogName[];
  repositories: CatalogName[];
  offerings: CatalogName[];
  schedules: CatalogName[];
}

export interface CatalogName {
  value: string;
  description: string;
}

/** A shell shows no more than a screen of them anyway. */
const LIMIT = 200;

/**
 * Reads names straight from the tables: no migration, nothing written, and without what opening the catalog loads, so
 * that it takes milliseconds. Of a catalog that is not there, or on PostgreSQL, it knows none.
 */
export function readNames(url: string): CatalogNames {
  const path = url.startsWith('sqlite:') ? url.slice('sqlite:'.length) : '';
  if (!existsSync(path)) return { vms: [], backups: [], hosts: [], repositories: [], offerings: [], schedules: [] };
  const file = new DatabaseSync(path, { readOnly: true, timeout: 100 });
  const names = (sql: string): CatalogName[] =>
    file
      .prepare(`${sql} limit ${LIMIT}`)
      .all()
      .map(({ value, description }) => ({ value: String(value), description: String(description) }));
  try {
    return {
      vms: names(`select name as value, power || ' on ' || host as description from vms order by name`),
      backups: names(
        `select id as value, vm_name || ' ' || type || ' ' || coalesce(instant, '') as description
         from backups where state = 'BackedUp' order by sort_time desc`,
      ),
      hosts: names(`select name as value, 'host' as description from hosts order by name`),
      repositories: names(`select name as value, 'repository' as description from repositories order by name`),
      offerings: names(`select name as value, 'offering' as description from offerings order by name`),
      schedules: names(`select name as value, 'schedule' as description from schedules order by name`),
    };
  } finally {
    file.close();
  }
}
