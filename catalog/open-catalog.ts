import { mkdirSync } from 'node:fs';
import { dirname, isAbsolute } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { setTimeout as delay } from 'node:timers/promises';
import { Kysely, PostgresDialect } from 'kysely';
import { Migrator } from 'kysely/migration';
import pg from 'pg';
import { admissionQueries } from './admissions.ts';
import { backupQueries } from './backups.ts';
import { checkpointQueries } from './checkpoints.ts';
import { deltaQueries } from './deltas.ts';
import { copyQueries } from './copies.ts';
import { consolidationQueries } from './consolidations.ts';
import type { Catalog } from './contract.ts';
import type { Database, Tables } from './database.ts';
import { eventQueries } from './events.ts';
import { hostQueries } from './hosts.ts';
import { installationOf } from './installation.ts';
import { firstCatalog } from './migrations/0001-first-catalog.ts';
import { lifeOfAChain } from './migrations/0002-life-of-a-chain.ts';
import { overlaysOnPrimary } from './migrations/0003-overlays-on-primary.ts';
import { detailsOfEvents } from './migrations/0004-details-of-events.ts';
import { pinNotes } from './migrations/0005-pin-notes.ts';
import { rewrites } from './migrations/0006-rewrites.ts';
import { validations } from './migrations/0007-validations.ts';
import { schedules } from './migrations/0009-schedules.ts';
import { backupsBeingRestored } from './migrations/0010-backups-being-restored.ts';
import { settingsOfRepositories } from './migrations/0011-settings-of-repositories.ts';
import { verifiedFiles } from './migrations/0012-verified-files.ts';
import { copiesOfBackups } from './migrations/0013-copies-of-backups.ts';
import { installationId } from './migrations/0014-installation.ts';
import { filesOfCopies } from './migrations/0015-files-of-copies.ts';
import { consolidations } from './migrations/0008-consolidations.ts';
import { offeringQueries } from './offerings.ts';
import { proofQueries } from './proofs.ts';
import { checkQueries } from './checks.ts';
import { claimQueries } from './claims.ts';
import { repositoryQueries } from './repositories.ts';
import { rescanQueries } from './rescans.ts';
import { rewriteQueries } from './rewrites.ts';
import { NodeSqliteDialect } from './sqlite-dialect.ts';
import { scheduleQueries } from './schedules.ts';
import { isWorthRepeating } from './transaction.ts';
import { validationQueries } from './validations.ts';
import { vmQueries } from './vms.ts';

const BUSY_TIMEOUT_MS = 5_000;
const CONNECT_TIMEOUT_MS = 10_000;
const STALLED_TIMEOUT_MS = 30_000;

/**
 * Opens the catalog, makes it if it is not there, and brings its tables up to date; any number of processes may do so
 * at the same moment. `url` is `sqlite:/absolute/path.sqlite`, `sqlite::memory:` (for tests) or `postgres://…`, whose
 * password may also come from PGPASSWORD or ~/.pgpass. No error names the password.
 */
export async function openCatalog(url: string): Promise<Catalog> {
  const database = await openDatabase(url);
  return {
    installation: () => installationOf(database),
    hosts: hostQueries(database),
    vms: vmQueries(database),
    repositories: repositoryQueries(database),
    offerings: offeringQueries(database),
    backups: backupQueries(database),
    checkpoints: checkpointQueries(database),
    deltas: deltaQueries(database),
    admissions: admissionQueries(database),
    consolidations: consolidationQueries(database),
    events: eventQueries(database),
    validations: validationQueries(database),
    rewrites: rewriteQueries(database),
    copies: copyQueries(database),
    schedules: scheduleQueries(database),
    proofs: proofQueries(database),
    rescans: rescanQueries(database),
    checks: checkQueries(database),
    claims: claimQueries(database),
    [Symbol.asyncDispose]: () => database.db.destroy(),
  };
}

/** The tables themselves, opened and brought up to date in the same way. The caller calls `db.destroy()`. */
export async function openDatabase(url: string): Promise<Database> {
  const database = url.startsWith('sqlite:') ? await openSqlite(url.slice('sqlite:'.length)) : openPostgres(url);
  try {
    await migrate(database);
    return database;
  } catch (error) {
    await database.db.destroy();
    throw error;
  }
}

async function openSqlite(path: string): Promise<Database> {
  if (path !== ':memory:') {
    if (!isAbsolute(path)) throw new Error(`catalog sqlite:${path}: the path must be absolute`);
    mkdirSync(dirname(path), { recursive: true });
  }
  const file = new DatabaseSync(path, { timeout: BUSY_TIMEOUT_MS, enableForeignKeyConstraints: true });
  try {
    await switchToWal(file);
    file.exec('pragma synchronous = full');
  } catch (error) {
    file.close();
    throw error;
  }
  const db = new Kysely<Tables>({ dialect: new NodeSqliteDialect(file) });
  return { db, engine: 'sqlite', path: path === ':memory:' ? undefined : path };
}

/** The switch does not wait for other processes by itself: of two that open a new file at once, one finds it busy. */
async function switchToWal(file: DatabaseSync): Promise<void> {
  const deadline = Date.now() + BUSY_TIMEOUT_MS;
  for (;;) {
    try {
      file.exec('pragma journal_mode = wal');
      return;
    } catch (error) {
      if (!isWorthRepeating(error) || Date.now() > deadline) throw error;
      await delay(5 + Math.random() * 20);
    }
  }
}

function openPostgres(url: string): Database {
  // Checked here: URL's own error carries the whole text, password included.
  if (!URL.canParse(url) || !/^postgres(ql)?:\/\//.test(url)) {
    throw new Error('the catalog URL must be sqlite:/absolute/path.sqlite or postgres://user@host:port/database');
  }
  const pool = new pg.Pool({
    connectionString: url,
    application_name: 'holdfast',
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    keepAlive: true,
    // A process cut off in the middle of a transaction must not hold the others up for as long as TCP believes in it.
    idle_in_transaction_session_timeout: STALLED_TIMEOUT_MS,
    types: { getTypeParser: wholeNumbersAsNumbers },
  });
  // A connection that breaks while idle has left the pool already; unheard, the event would end the process.
  pool.on('error', () => undefined);
  return { db: new Kysely<Tables>({ dialect: new PostgresDialect({ pool }) }), engine: 'postgres' };
}

/** `int8` comes as text otherwise; ours stay below 2^53. */
const wholeNumbersAsNumbers: typeof pg.types.getTypeParser = (type, format) =>
  type === pg.types.builtins.INT8 ? Number : (pg.types.getTypeParser(type, format) as unknown);

async function migrate({ db, engine }: Database): Promise<void> {
  const migrations = {
    '0001-first-catalog': firstCatalog(engine),
    '0002-life-of-a-chain': lifeOfAChain(engine),
    '0003-overlays-on-primary': overlaysOnPrimary(engine),
    '0004-details-of-events': detailsOfEvents(engine),
    '0005-pin-notes': pinNotes(engine),
    '0006-rewrites': rewrites(engine),
    '0007-validations': validations(engine),
    '0009-schedules': schedules(engine),
    '0010-backups-being-restored': backupsBeingRestored(engine),
    '0011-settings-of-repositories': settingsOfRepositories(engine),
    '0013-copies-of-backups': copiesOfBackups(engine),
    '0014-installation': installationId(engine),
    '0015-files-of-copies': filesOfCopies(engine),
    '0008-consolidations': consolidations(engine),
    '0012-verified-files': verifiedFiles(engine),
  };
  const migrator = new Migrator({ db, provider: { getMigrations: () => Promise.resolve(migrations) } });
  const { error } = await migrator.migrateToLatest();
  if (error instanceof Error && error.message.includes('previously executed migration')) {
    throw new Error('the catalog was made by a newer version of Holdfast; update this one', { cause: error });
  }
  if (error !== undefined)
    throw error instanceof Error ? error : new Error('the catalog cannot be migrated', { cause: error });
}
