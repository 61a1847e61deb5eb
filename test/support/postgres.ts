import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { accessSync, chownSync, constants, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { createInterface } from 'node:readline';
import pg from 'pg';

const OLDEST = 15;
const PORT_ATTEMPTS = 5;

/** A PostgreSQL cluster of one's own, gone with all its data when disposed of. */
export interface PostgresCluster extends AsyncDisposable {
  /** Makes an empty database and gives its URL, password included. */
  createDatabase(): Promise<string>;
}

/** Why no cluster can be started here, as a sentence; undefined when one can. */
export function missingPostgres(): string | undefined {
  if (binFolder() === undefined) {
    return `PostgreSQL ${OLDEST} or newer is missing (initdb and postgres; on Debian: apt-get install postgresql)`;
  }
  if (process.getuid?.() === 0 && postgresUser() === undefined) {
    return 'PostgreSQL does not run as root, and there is no user "postgres" to run it as';
  }
  return undefined;
}

/** Listens on 127.0.0.1 on a free port, with a password. Its process ends with this one, or when disposed of. */
export async function startPostgres(): Promise<PostgresCluster> {
  const bin = binFolder();
  if (bin === undefined) throw new Error(missingPostgres());
  const user = process.getuid?.() === 0 ? postgresUser() : undefined;
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-postgres-'));
  const password = randomBytes(12).toString('hex');
  const passwordFile = join(folder, 'password');
  writeFileSync(passwordFile, password, { mode: 0o600 });
  if (user) for (const path of [folder, passwordFile]) chownSync(path, user.uid, user.gid);
  const data = join(folder, 'data');
  const options = { cwd: folder, env: { PATH: bin, LC_ALL: 'C.UTF-8' }, ...user };

  try {
    await succeed(
      spawn(
        join(bin, 'initdb'),
        ['-D', data, '-U', 'holdfast', '-A', 'scram-sha-256', '-E', 'UTF8', '--no-sync', `--pwfile=${passwordFile}`],
        { ...options, stdio: ['ignore', 'ignore', 'pipe'] },
      ),
    );
    for (let attempt = 1; ; attempt++) {
      const port = await freePort();
      const server = spawn(
        join(bin, 'postgres'),
        [
          '-D',
          data,
          '-k',
          folder,
          '-h',
          '127.0.0.1',
          '-p',
          String(port),
          '-c',
          'fsync=off',
          '-c',
          'max_connections=200',
        ],
        { ...options, stdio: ['ignore', 'ignore', 'pipe'] },
      );
      const endWithUs = (): boolean => server.kill('SIGQUIT');
      process.once('exit', endWithUs);
      const stop = async (): Promise<void> => {
        process.removeListener('exit', endWithUs);
        await end(server);
      };
      const said = await readiness(server);
      if (said === 'ready') return cluster(`postgres://holdfast:${password}@127.0.0.1:${port}`, stop, folder);
      await stop();
      if (attempt === PORT_ATTEMPTS || !said.includes('could not bind')) throw new Error(`postgres: ${said}`);
    }
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

function cluster(address: string, stop: () => Promise<void>, folder: string): PostgresCluster {
  let databases = 0;
  return {
    async createDatabase() {
      const name = `catalog_${++databases}`;
      const client = new pg.Client({ connectionString: `${address}/postgres` });
      await client.connect();
      await client.query(`create database ${name}`);
      await client.end();
      return `${address}/${name}`;
    },
    async [Symbol.asyncDispose]() {
      await stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Reads what the server says until it accepts connections or ends. Goes on reading, so that it never blocks. */
async function readiness(server: ChildProcess): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  const said: string[] = [];
  const lines = createInterface({ input: server.stderr! });
  lines.on('line', (line) => {
    if (said.length < 100) said.push(line);
    if (line.includes('database system is ready to accept connections')) resolve('ready');
  });
  server.once('error', (error) => resolve(error.message));
  server.once('close', () => resolve(said.join('\n')));
  return await promise;
}

/** SIGINT is PostgreSQL's fast shutdown: it does not wait for clients. */
async function end(server: ChildProcess): Promise<void> {
  if (server.exitCode !== null || server.signalCode !== null || server.pid === undefined) return;
  const ended = once(server, 'exit');
  server.kill('SIGINT');
  await ended;
}

async function succeed(child: ChildProcess): Promise<void> {
  let stderr = '';
  child.stderr!.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(`${child.spawnfile} failed (${String(code)}): ${stderr.slice(-2_000)}`);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** The newest under Debian's folder, or the folder on the PATH that has both programs. */
function binFolder(): string | undefined {
  return [...debianFolders(), ...(process.env['PATH'] ?? '').split(delimiter)].find((folder) =>
    ['initdb', 'postgres'].every((program) => {
      try {
        accessSync(join(folder, program), constants.X_OK);
        return true;
      } catch {
        return false;
      }
    }),
  );
}

function debianFolders(): string[] {
  try {
    return readdirSync('/usr/lib/postgresql')
      .map(Number)
      .filter((version) => version >= OLDEST)
      .sort((a, b) => b - a)
      .map((version) => `/usr/lib/postgresql/${version}/bin`);
  } catch {
    return [];
  }
}

function postgresUser(): { uid: number; gid: number } | undefined {
  const fields = /^postgres:[^:]*:(\d+):(\d+):/m.exec(readFileSync('/etc/passwd', 'utf8'));
  return fields ? { uid: Number(fields[1]), gid: Number(fields[2]) } : undefined;
}
