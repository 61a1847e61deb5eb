import { spawn, type ChildProcess } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { createWriteStream, renameSync, writeFileSync, type WriteStream } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openCatalog } from '../catalog/open-catalog.ts';
import type { DevState } from '../schemas/configuration.ts';
import { placeText, type RepositoryLocation } from '../schemas/repository.ts';
import { searchAttributes } from '../schemas/search-attributes.ts';
import { addRepository } from './add-repository.ts';
import { devStatePath, type Installation } from './installation.ts';
import { holdAlone } from './single-instance.ts';
import { connectClient } from './connect-client.ts';

export interface DevOptions {
  host: string;
  libvirt: string;
  /** undefined: a folder in the installation's. */
  repository: RepositoryLocation | undefined;
  slots: number;
  signal: AbortSignal;
  log: (line: string) => void;
}

/** How long `ready` waits for the API. */
const API_PATIENCE_MS = 10_000;

interface Service {
  name: string;
  command: string;
  args: string[];
  /** What the service prints when it works. */
  readyLine?: string;
}

/**
 * A whole installation on one machine: Temporal's dev server on a SQLite file, control worker, host worker and API, each a process of its own and started again when it ends. Runs until the signal; then all of them end.
 */
export async function runDev(installation: Installation, options: DevOptions): Promise<void> {
  const { dataDir } = installation;
  const { signal, log, host, libvirt } = options;
  await mkdir(join(dataDir, 'logs'), { recursive: true });
  await mkdir(join(dataDir, 'run'), { recursive: true });
  await using _lock = await holdAlone(join(dataDir, 'run', 'dev.lock'), signal, log);
  await prepareCatalog(installation, options);

  const { port, uiPort, apiPort } = await ports(installation.dev);
  const state: DevState = {
    pid: process.pid,
    temporalAddress: `127.0.0.1:${port}`,
    temporalUi: `http://127.0.0.1:${uiPort}`,
    api: `http://127.0.0.1:${apiPort}`,
    host,
    libvirt,
    processes: {},
  };
  const environment = { ...process.env, TEMPORAL_ADDRESS: state.temporalAddress };
  const running: Supervised[] = [];
  // A second SIGTERM or Ctrl-C ends this process at once: what it started must not outlive it.
  const endAll = (): void => running.forEach((supervised) => supervised.kill());
  process.once('exit', endAll);
  const start = async (service: Service): Promise<void> => {
    const supervised = new Supervised(service, {
      dataDir,
      environment,
      log,
      onStart: (pid) => note(service.name, pid),
    });
    running.push(supervised);
    await supervised.start(signal);
  };
  const note = (name: string, pid: number): void => {
    state.processes[name] = pid;
    const path = devStatePath(dataDir);
    writeFileSync(`${path}.tmp`, JSON.stringify(state, null, 2));
    renameSync(`${path}.tmp`, path);
  };
  try {
    await start(temporalService(dataDir, port, uiPort));
    await temporalAnswers({ ...installation.temporal, address: state.temporalAddress }, signal);
    const cli = [join(import.meta.dirname, '..', 'cli', 'main.ts'), '--data', dataDir];
    const node = (name: string, ...args: string[]): Service => ({
      name,
      command: process.execPath,
      args: ['--disable-warning=ExperimentalWarning', ...cli, ...args],
      readyLine: 'ready',
    });
    await Promise.all([
      start(node('control', 'worker', 'control')),
      start(node('host', 'worker', 'host', '--host', host, '--libvirt', libvirt, '--slots', String(options.slots))),
      // Backups do not need it: a port that another program took meanwhile must not hold them up.
      Promise.race([
        start(node('api', 'api', '--listen', `127.0.0.1:${apiPort}`)),
        sleep(API_PATIENCE_MS, undefined, { ref: false }),
      ]),
    ]);
    log(`Temporal UI: ${state.temporalUi}`);
    log(`API: http://127.0.0.1:${apiPort}`);
    log('ready');
    await new Promise<void>((done) => signal.addEventListener('abort', () => done(), { once: true }));
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    const [temporal, ...workers] = running;
    await Promise.all(workers.map((supervised) => supervised.stop()));
    await temporal?.stop();
    process.off('exit', endAll);
    await rm(devStatePath(dataDir), { force: true });
  }
}

interface Surroundings {
  dataDir: string;
  environment: NodeJS.ProcessEnv;
  log: (line: string) => void;
  onStart: (pid: number) => void;
}

/** A child process that is started again when it ends by itself; its output goes to `logs/<name>.log`. */
class Supervised {
  readonly #service: Service;
  readonly #context: Surroundings;
  readonly #output: WriteStream;
  #child: ChildProcess | undefined;
  #stopping = false;

  constructor(service: Service, context: Surroundings) {
    this.#service = service;
    this.#context = context;
    this.#output = createWriteStream(join(context.dataDir, 'logs', `${service.name}.log`), { flags: 'a' });
  }

  /** Resolves when the service says that it is ready. */
  async start(signal: AbortSignal): Promise<void> {
    const { promise: ready, resolve: isReady, reject } = Promise.withResolvers<undefined>();
    signal.addEventListener('abort', () => reject(new Error('stopped')), { once: true });
    this.#spawn(isReady, (error) => reject(error));
    await ready;
  }

  #spawn(isReady: (value: undefined) => void, failed: (error: Error) => void): void {
    const { name, command, args, readyLine } = this.#service;
    const child = spawn(command, args, { env: this.#context.environment, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child = child;
    child.once('error', failed);
    if (child.pid !== undefined) this.#context.onStart(child.pid);
    if (readyLine === undefined) isReady(undefined);
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        this.#output.write(chunk);
        if (readyLine !== undefined && chunk.includes(readyLine)) isReady(undefined);
      });
    }
    child.once('exit', (code, signal) => {
      if (this.#stopping) return;
      this.#context.log(
        `${name} ended (${signal ?? `exit code ${code ?? 0}`}); starting it again, see logs/${name}.log`,
      );
      setTimeout(() => this.#stopping || this.#spawn(isReady, failed), 1000);
    });
  }

  /** Ends it at once, and for good. */
  kill(): void {
    this.#stopping = true;
    this.#child?.kill('SIGKILL');
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    const child = this.#child;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const ended = new Promise<void>((done) => child.once('exit', () => done()));
      child.kill('SIGTERM');
      const killer = setTimeout(() => child.kill('SIGKILL'), 30_000);
      await ended;
      clearTimeout(killer);
    }
    this.#output.end();
  }
}

function temporalService(dataDir: string, port: number, uiPort: number): Service {
  const attributes = Object.values(searchAttributes).flatMap(({ name }) => ['--search-attribute', `${name}=Keyword`]);
  return {
    name: 'temporal',
    command: 'temporal',
    args: [
      'server',
      'start-dev',
      ...['--ip', '127.0.0.1', '--port', String(port), '--ui-port', String(uiPort)],
      ...['--db-filename', join(dataDir, 'temporal.sqlite'), '--log-level', 'warn'],
      // A write-ahead log costs one flush per transaction instead of three.
      ...['--sqlite-pragma', 'journal_mode=wal'],
      ...['--dynamic-config-value', 'matching.enableFairness=true'],
      ...attributes,
    ],
  };
}

async function temporalAnswers(temporal: Installation['temporal'], signal: AbortSignal): Promise<void> {
  for (;;) {
    try {
      const client = await connectClient(temporal);
      await client.workflowService.describeNamespace({ namespace: temporal.namespace });
      await client.connection.close();
      return;
    } catch (error) {
      if (signal.aborted) throw error;
      await sleep(200, undefined, { signal });
    }
  }
}

/**
 * HOLDFAST_DEV_PORTS (`server,ui`, and if you like `,api`); else the ports of the last run, so that a page in the browser stays right; else
 * Temporal's own and 7070, or free ones.
 */
async function ports(last: DevState | undefined): Promise<{ port: number; uiPort: number; apiPort: number }> {
  const [port, uiPort, apiPort] = (process.env['HOLDFAST_DEV_PORTS'] ?? '').split(',').map(Number);
  if (port !== undefined && uiPort !== undefined) return { port, uiPort, apiPort: apiPort ?? (await freePort(0)) };
  const lastPort = Number(last?.temporalAddress.split(':').at(-1) ?? 7233);
  const lastUi = last === undefined ? 8233 : Number(new URL(last.temporalUi).port);
  const lastApi = last?.api === undefined ? 7070 : Number(new URL(last.api).port);
  return { port: await freePort(lastPort), uiPort: await freePort(lastUi), apiPort: await freePort(lastApi) };
}

async function freePort(wanted: number): Promise<number> {
  for (const port of [wanted, 0]) {
    const server = createServer();
    const got = await new Promise<number | undefined>((done) => {
      server.once('error', () => done(undefined));
      server.listen(port, '127.0.0.1', () => {
        const address = server.address();
        done(typeof address === 'object' && address !== null ? address.port : undefined);
      });
    });
    await new Promise((done) => server.close(done));
    if (got !== undefined) return got;
  }
  throw new Error('no free port on 127.0.0.1');
}

/** The place that `--repo` names, or a directory in the installation's folder, becomes the repository `main`. */
async function prepareCatalog(
  { catalogUrl, dataDir }: Installation,
  { repository, host, slots }: DevOptions,
): Promise<void> {
  await using catalog = await openCatalog(catalogUrl);
  await catalog.hosts.upsert({ name: host, slots });
  const wanted = repository ?? ({ kind: 'directory', path: resolve(dataDir, 'repository') } as const);
  const known = await catalog.repositories.list();
  if (known.some(({ location }) => placeText(location) === placeText(wanted))) return;
  if (repository === undefined && known.length > 0) return;
  await addRepository(catalog, { name: freeName(known.map(({ name }) => name)), location: wanted });
}

function freeName(taken: string[]): string {
  for (let number = 1; ; number += 1) {
    const name = number === 1 ? 'main' : `main-${number}`;
    if (!taken.includes(name)) return name;
  }
}
