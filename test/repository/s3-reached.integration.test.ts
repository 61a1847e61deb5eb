import dns from 'node:dns';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { checkAccess } from '../../repository/check-access.ts';
import { createS3Store } from '../../repository/s3-store.ts';
import { openSource } from '../../repository/source.ts';
import type { S3Place } from '../../schemas/repository.ts';
import { hasStoreCode, writeStretches } from '../support/blob-store-suite.ts';
import { missingS3Server, S3_SERVERS, startS3Server, type S3Server } from '../support/s3-server.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

/** All that backups need of a place, by the SDK and by the requests that carry data. */
async function expectWorking(place: S3Place): Promise<void> {
  const store = createS3Store(place);
  const outcomes = await checkAccess(store);
  expect(outcomes.map(({ act, problem }) => [act, problem])).toEqual(outcomes.map(({ act }) => [act, null]));
  const upload = await store.createUpload('vm/disk', { expectedBytes: 7 });
  await writeStretches(upload, [{ part: 1, offset: 0, bytes: Buffer.from('content') }]);
  await upload.finish(7);
  await using source = await openSource(store.source('vm/disk'));
  const read = Buffer.alloc(7);
  expect(await source.read(0, read)).toBe(7);
  expect(read.toString()).toBe('content');
}

describe.each(S3_SERVERS)('buckets in host names, on %s', (kind) => {
  const missing = missingS3Server(kind);
  it.skipIf(missing !== undefined)(missing ?? 'are reached there, by every kind of request', async () => {
    const DOMAIN = 's3.holdfast.test';
    await using server = await startS3Server(kind, { domain: DOMAIN });
    const place = await server.newPlace();
    const asked = new Set<string>();
    const names = vi.spyOn(dns, 'lookup').mockImplementation(((
      host: string,
      options: { all?: boolean },
      answer: (error: null, addresses: unknown, family?: number) => void,
    ) => {
      asked.add(host);
      if (options.all === true) answer(null, [{ address: '127.0.0.1', family: 4 }]);
      else answer(null, '127.0.0.1', 4);
    }) as typeof dns.lookup);
    try {
      await expectWorking({ ...place, endpoint: `http://${DOMAIN}:${server.port}`, pathStyle: false });
    } finally {
      names.mockRestore();
    }
    expect([...asked]).toEqual([`${place.bucket}.${DOMAIN}`]);
  });
});

const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'keys where AWS tools look for them', () => {
  let server: S3Server;
  let folder: TempDir;
  let place: S3Place;
  beforeAll(async () => {
    server = await startS3Server('versitygw');
    folder = await tempDir('hf-s3');
    await mkdir(join(folder.path, 'home'));
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
  });
  beforeEach(async () => {
    place = { ...(await server.newPlace()), credentials: { kind: 'chain', profile: null } };
    for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) vi.stubEnv(name, undefined);
    vi.stubEnv('HOME', join(folder.path, 'home'));
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
  });
  afterEach(() => vi.unstubAllEnvs());

  /** A service that hands out keys, as those of containers and instances; what it was asked. */
  async function keyService(answer: (request: IncomingMessage, response: ServerResponse) => void) {
    const service = createServer(answer).listen(0, '127.0.0.1');
    await once(service, 'listening');
    const { port } = service.address() as AddressInfo;
    return {
      address: `http://127.0.0.1:${port}`,
      async [Symbol.asyncDispose]() {
        service.closeAllConnections();
        service.close();
        await once(service, 'close');
      },
    };
  }
  const handedOut = (): string =>
    JSON.stringify({
      Code: 'Success',
      AccessKeyId: server.keys.accessKeyId,
      SecretAccessKey: server.keys.secretAccessKey,
      Token: '',
      Expiration: new Date(Date.now() + 3_600_000).toISOString(),
    });

  it('are refused where there are none', async () => {
    await expect(createS3Store(place).getBlob('a')).rejects.toSatisfy(hasStoreCode('denied'));
  });

  it('are taken from the environment', async () => {
    vi.stubEnv('AWS_ACCESS_KEY_ID', server.keys.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', server.keys.secretAccessKey);
    await expectWorking(place);
  });

  it('are taken from the shared file, by profile', async () => {
    const shared = join(folder.path, 'shared');
    const { accessKeyId, secretAccessKey } = server.keys;
    await writeFile(
      shared,
      `[default]\naws_access_key_id = other\naws_secret_access_key = other\n\n[backup]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`,
    );
    vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', shared);
    await expect(createS3Store(place).getBlob('a')).rejects.toSatisfy(hasStoreCode('denied'));
    await expectWorking({ ...place, credentials: { kind: 'chain', profile: 'backup' } });
  });

  it('are taken from the service of a container, with its token', async () => {
    await using service = await keyService(({ headers }, response) => {
      response.statusCode = headers.authorization === 'let me in' ? 200 : 401;
      response.end(headers.authorization === 'let me in' ? handedOut() : '{}');
    });
    vi.stubEnv('AWS_CONTAINER_CREDENTIALS_FULL_URI', `${service.address}/keys`);
    vi.stubEnv('AWS_CONTAINER_AUTHORIZATION_TOKEN', 'let me in');
    await expectWorking(place);
  });

  it('are taken from the service of an instance, by its role', async () => {
    await using service = await keyService(({ method, url = '', headers }, response) => {
      if (method === 'PUT' && url === '/latest/api/token') response.end('token');
      else if (headers['x-aws-ec2-metadata-token'] !== 'token') response.writeHead(401).end();
      else response.end(url.endsWith('/security-credentials/') ? 'backup-role' : handedOut());
    });
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', undefined);
    vi.stubEnv('AWS_EC2_METADATA_SERVICE_ENDPOINT', service.address);
    await expectWorking(place);
  });
});
