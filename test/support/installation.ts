import { spawn } from 'node:child_process';
import { createWriteStream, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import { devState, type DevState } from '../../schemas/configuration.ts';
import type { KvmHost } from './kvm-host.ts';
import { endProcess, isRunning, signalProcess, until } from './processes.ts';

const HOLDFAST = join(import.meta.dirname, '..', '..', 'bin', 'holdfast');

export interface CommandResult {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** A `holdfast dev` of its own in a folder of its own: real Temporal, real workers, each a process. */
export interface TestInstallation extends AsyncDisposable {
  readonly dataDir: string;
  readonly repositoryDir: string;
  readonly host: KvmHost;
  /** Runs `holdfast` with this installation. Never throws for its exit code. */
  cli(...args: string[]): Promise<CommandResult>;
  /** Runs it with `--json` and parses its output; throws with stderr when it fails. */
  json<T>(...args: string[]): Promise<T>;
  take(vm: string, ...flags: string[]): Promise<Backup>;
  restore(backupId: string, ...flags: string[]): Promise<RestoredVm>;
  /** Starts a command and gives its result as a promise: the test goes on meanwhile. */
  start(...args: string[]): Promise<CommandResult>;
  /** Path of a blob of the repository. */
  blob(key: string): string;
  processes(): DevState['processes'];
  /** Kills one of `temporal`, `control`, `host`; `holdfast dev` starts it again a second later. */
  kill(name: string, signal?: NodeJS.Signals): Promise<void>;
  /** Waits until a killed process has a successor that is ready. */
  isBack(name: string): Promise<void>;
  /** A client of its Temporal; closed with the installation. */
  client(): Promise<Client>;
}

export interface InstallationOptions {
  host: KvmHost;
  dir: string;
  /** Short, so that a killed worker is noticed soon. */
  heartbeatSeconds?: number;
  slots?: number;
  /** What `--repo` takes, with its options: a folder beside the data by default. */
  repository?: string[];
  env?: NodeJS.ProcessEnv;
}

export async function startInstallation(options: InstallationOptions): Promise<TestInstallation> {
  const { host, dir, heartbeatSeconds = 6, slots = 4 } = options;
  const dataDir = join(dir, 'data');
  const repositoryDir = join(dir, 'repo');
  await mkdir(dataDir, { recursive: true });
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    HOLDFAST_DATA: dataDir,
    HOLDFAST_HEARTBEAT_SECONDS: String(heartbeatSeconds),
    ...options.env,
  };
  delete env['TEMPORAL_ADDRESS'];
  const log = createWriteStream(join(dir, 'dev.log'));
  const ports = [await freePort(), await freePort()];
  const dev = spawn(
    HOLDFAST,
    [
      ...['dev', '--libvirt', host.socketPath, '--host', host.name, '--slots', String(slots)],
      ...['--repo', ...(options.repository ?? [repositoryDir])],
    ],
    { env: { ...env, HOLDFAST_DEV_PORTS: ports.join(',') }, stdio: ['ignore', 'pipe', 'pipe'], detached: true },
  );
  let output = '';
  for (const stream of [dev.stdout, dev.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      log.write(chunk);
    });
  }
  const readDev = (): DevState => devState.parse(JSON.parse(readFileSync(join(dataDir, 'run', 'dev.json'), 'utf8')));
  await until(
    'holdfast dev is ready',
    () => {
      if (dev.exitCode !== null) throw new Error(`holdfast dev ended: ${output}`);
      return /^ready$/m.test(output);
    },
    { timeoutMs: 90_000 },
  );
  const killed = new Map<string, number>();
  let client: Client | undefined;

  const cli = async (...args: string[]): Promise<CommandResult> =>
    await new Promise((done, failed) => {
      const child = spawn(HOLDFAST, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
      let stdout = '';
      let stderr = '';
      child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
      child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
      child.once('error', failed);
      child.once('close', (code) => done({ exitCode: code ?? -1, stdout, stderr }));
    });
  const json = async <T>(...args: string[]): Promise<T> => {
    const { exitCode, stdout, stderr } = await cli(...args, '--json');
    if (exitCode !== 0) throw new Error(`holdfast ${args.join(' ')} ended with ${exitCode}: ${stderr}`);
    return JSON.parse(stdout) as T;
  };
  return {
    dataDir,
    repositoryDir,
    host,
    cli,
    json,
    start: cli,
    take: (vm, ...flags) => json<Backup>('backup', 'take', vm, ...flags),
    restore: (backupId, ...flags) => json<RestoredVm>('restore', backupId, ...flags),
    blob: (key) => join(repositoryDir, key),
    processes: () => readDev().processes,
    async kill(name, signal = 'SIGKILL') {
      const pid = readDev().processes[name];
      if (pid === undefined) throw new Error(`no process ${name}`);
      killed.set(name, pid);
      signalProcess(pid, signal);
      await until(`${name} has ended`, () => !isRunning(pid));
    },
    async isBack(name) {
      const former = killed.get(name);
      await until(
        `${name} is back`,
        () => {
          const pid = readDev().processes[name];
          return pid !== undefined && pid !== former && isRunning(pid);
        },
        { timeoutMs: 30_000 },
      );
    },
    async client() {
      client ??= new Client({ connection: await Connection.connect({ address: readDev().temporalAddress }) });
      return client;
    },
    async [Symbol.asyncDispose]() {
      await client?.connection.close();
      if (dev.pid !== undefined) await endProcess(dev.pid, 60_000);
      log.end();
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  if (typeof address === 'string' || address === null) throw new Error('no port');
  return address.port;
}
