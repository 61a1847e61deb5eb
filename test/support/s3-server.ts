import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { s3Place, type S3Place } from '../../schemas/repository.ts';
import { endProcess, isRunning, until } from './processes.ts';
import { tempDir } from './temp.ts';

/** Two servers that have nothing in common: versitygw keeps objects as files, minio in a format of its own. */
export type S3ServerKind = 'versitygw' | 'minio';
export const S3_SERVERS: S3ServerKind[] = ['versitygw', 'minio'];

export interface S3Server extends AsyncDisposable {
  readonly endpoint: string;
  readonly port: number;
  readonly pid: number;
  /** Of versitygw: the folder whose subfolders are buckets, with each object as a file under its key. */
  readonly dataDir: string;
  /** An INI file with the server's keys, as `--credentials-file` takes it. */
  readonly credentialsFile: string;
  readonly keys: { accessKeyId: string; secretAccessKey: string };
  /** A new, empty bucket on it, with a prefix. `objectLock`: one that can lock objects. */
  newPlace(prefix?: string, options?: { objectLock?: boolean }): Promise<S3Place>;
  /** Kills its process, and starts it again as it was: same port, same data. */
  kill(): Promise<void>;
  restart(): Promise<void>;
}

const TOOLS = join(import.meta.dirname, '..', '..', '.tools', 'bin');
const PORT_ATTEMPTS = 5;

/** Why there is no such server here, as a sentence; undefined when there is one. */
export const missingS3Server = (kind: S3ServerKind): string | undefined =>
  existsSync(join(TOOLS, kind)) ? undefined : `${kind} is missing; scripts/setup --test installs it`;

/**
 * Listens on 127.0.0.1 on a free port. Its process ends with this one, or when disposed of, and its data with it.
 * @param tls speak https, with this certificate and key
 * @param versions versitygw: keep versions of objects, where a bucket wants them; minio always does
 * @param domain also takes requests whose bucket is in the host name, before this domain
 */
export async function startS3Server(
  kind: S3ServerKind,
  { tls, versions, domain }: { tls?: { certificate: string; key: string }; versions?: boolean; domain?: string } = {},
): Promise<S3Server> {
  const missing = missingS3Server(kind);
  if (missing !== undefined) throw new Error(missing);
  const folder = await tempDir('hf-s3');
  try {
    const keys = { accessKeyId: 'holdfast-test', secretAccessKey: randomBytes(16).toString('hex') };
    const credentialsFile = join(folder.path, 'credentials');
    await writeFile(
      credentialsFile,
      `[default]\naws_access_key_id = ${keys.accessKeyId}\naws_secret_access_key = ${keys.secretAccessKey}\n`,
      { mode: 0o600 },
    );
    const data = join(folder.path, 'data');
    await mkdir(data);
    const versionsDir = versions === true ? join(folder.path, 'versions') : undefined;
    if (versionsDir !== undefined) await mkdir(versionsDir);
    for (let attempt = 1; ; attempt += 1) {
      const port = await freePort();
      const start = (): ChildProcess =>
        kind === 'minio'
          ? startMinio(data, port, { keys, domain })
          : startVersitygw(data, port, { keys, tls, versionsDir, domain });
      let server = start();
      const endWithUs = (): boolean => server.kill('SIGKILL');
      process.once('exit', endWithUs);
      const stop = async (): Promise<void> => {
        process.removeListener('exit', endWithUs);
        if (server.pid !== undefined && isRunning(server.pid)) await endProcess(server.pid);
      };
      const endpoint = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
      const said = await answers(server, endpoint);
      if (said === undefined) {
        return {
          ...s3Server({ port, pid: server.pid!, dataDir: data, keys, credentialsFile, tls }, stop, folder),
          async kill() {
            server.kill('SIGKILL');
            await until('the S3 server has ended', () => !isRunning(server.pid!));
          },
          async restart() {
            server = start();
            const refused = await answers(server, endpoint);
            if (refused !== undefined) throw new Error(`${kind} does not start again: ${refused}`);
          },
        };
      }
      await stop();
      if (attempt === PORT_ATTEMPTS) throw new Error(`${kind} does not start: ${said}`);
    }
  } catch (error) {
    await folder[Symbol.asyncDispose]();
    throw error;
  }
}

function s3Server(
  made: Pick<S3Server, 'port' | 'pid' | 'dataDir' | 'keys' | 'credentialsFile'> & {
    tls: { certificate: string } | undefined;
  },
  stop: () => Promise<void>,
  folder: AsyncDisposable,
): Omit<S3Server, 'kill' | 'restart'> {
  const { port, credentialsFile, tls, keys } = made;
  const endpoint = `${tls ? 'https' : 'http'}://127.0.0.1:${port}`;
  let buckets = 0;
  return {
    ...made,
    endpoint,
    async newPlace(prefix = 'back/ups', { objectLock = false } = {}) {
      const bucket = `bucket-${++buckets}`; // made by the server: versitygw knows no owner of a folder made beside it
      const plain = tls ? await plainClient(endpoint, tls.certificate, keys) : clientOf(endpoint, keys);
      await plain.send(new CreateBucketCommand({ Bucket: bucket, ObjectLockEnabledForBucket: objectLock }));
      plain.destroy();
      return s3Place.parse({
        kind: 's3',
        bucket,
        prefix,
        endpoint,
        pathStyle: true,
        ...(tls ? { caFile: tls.certificate } : {}),
        credentials: { kind: 'file', path: credentialsFile },
      });
    },
    async [Symbol.asyncDispose]() {
      await stop();
      await folder[Symbol.asyncDispose]();
    },
  };
}

const clientOf = (endpoint: string, credentials: S3Server['keys']): S3Client =>
  new S3Client({ endpoint, credentials, region: 'us-east-1', forcePathStyle: true });

async function plainClient(endpoint: string, caFile: string, credentials: S3Server['keys']): Promise<S3Client> {
  const { NodeHttpHandler } = await import('@smithy/node-http-handler');
  const { Agent } = await import('node:https');
  const { readFile } = await import('node:fs/promises');
  const requestHandler = new NodeHttpHandler({ httpsAgent: new Agent({ ca: await readFile(caFile) }) });
  return new S3Client({ endpoint, credentials, region: 'us-east-1', forcePathStyle: true, requestHandler });
}

function startVersitygw(
  data: string,
  port: number,
  {
    keys,
    tls,
    versionsDir,
    domain,
  }: {
    keys: S3Server['keys'];
    tls: { certificate: string; key: string } | undefined;
    versionsDir: string | undefined;
    domain: string | undefined;
  },
): ChildProcess {
  return spawn(
    join(TOOLS, 'versitygw'),
    [
      '--quiet',
      ...['--port', `127.0.0.1:${port}`],
      ...(domain === undefined ? [] : ['--virtual-domain', `${domain}:${port}`]),
      ...(tls ? ['--cert', tls.certificate, '--key', tls.key] : []),
      'posix',
      ...(versionsDir === undefined ? [] : ['--versioning-dir', versionsDir]),
      data,
    ],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ROOT_ACCESS_KEY: keys.accessKeyId, ROOT_SECRET_KEY: keys.secretAccessKey },
    },
  );
}

const startMinio = (
  data: string,
  port: number,
  { keys, domain }: { keys: S3Server['keys']; domain: string | undefined },
): ChildProcess =>
  spawn(join(TOOLS, 'minio'), ['server', '--quiet', '--address', `127.0.0.1:${port}`, data], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      HOME: data,
      MINIO_ROOT_USER: keys.accessKeyId,
      MINIO_ROOT_PASSWORD: keys.secretAccessKey,
      ...(domain === undefined ? {} : { MINIO_DOMAIN: domain }),
      MINIO_BROWSER: 'off',
      MINIO_UPDATE: 'off',
    },
  });

/** undefined when the server answers; what it said when it ended instead. Goes on reading, so that it never blocks. */
async function answers(server: ChildProcess, endpoint: string): Promise<string | undefined> {
  const said: string[] = [];
  for (const stream of [server.stdout!, server.stderr!]) {
    stream.on('data', (chunk: Buffer) => {
      if (said.length < 100) said.push(chunk.toString());
    });
  }
  let failed: string | undefined;
  server.once('error', (error) => (failed = error.message));
  const isUp = async (): Promise<boolean> => {
    if (failed !== undefined || server.exitCode !== null) return true;
    // A server that speaks TLS refuses us by its certificate: that is an answer as well. minio says 503 until it is ready.
    return await fetch(`${endpoint}/`).then(
      ({ status }) => status !== 503,
      (error: unknown) => endpoint.startsWith('https') && !String((error as Error).cause).includes('ECONNREFUSED'),
    );
  };
  await until('the S3 server answers', isUp, { timeoutMs: 60_000 });
  return server.exitCode === null ? failed : said.join('').slice(-2000);
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((done) => server.once('listening', done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}
