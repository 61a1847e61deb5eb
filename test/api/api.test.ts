import { once } from 'node:events';
import { request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { isLoopback, parseListen } from '../../api/listen-address.ts';
import { createApi } from '../../api/server.ts';
import { openCatalog } from '../../catalog/open-catalog.ts';
import { HoldfastError } from '../../schemas/failures.ts';

const VM = { uuid: '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e', name: 'web-1', host: 'kvm-1', power: 'running' } as const;
const TOKEN = 'a-token-of-some-length';

async function startApi({ token }: { token?: string } = {}) {
  const catalog = await openCatalog('sqlite::memory:');
  await catalog.vms.recordSighting({ ...VM, disks: [] }, new Date().toISOString());
  const client = () => Promise.reject(new HoldfastError('TemporalUnreachable', 'Temporal does not answer'));
  const server = createApi({ catalog, client, token, version: '0.0.0' });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(async () => {
    server.closeAllConnections();
    server.close();
    await catalog[Symbol.asyncDispose]();
  });
  const { port } = server.address() as AddressInfo;
  return async (path: string, init: RequestInit = {}): Promise<{ status: number; body: unknown }> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
    return { status: response.status, body: await response.json() };
  };
}

const post = (body: string): RequestInit => ({ method: 'POST', body });
const failure = (type: string, message: string) => ({
  error: { type, message: expect.stringContaining(message) as string },
});

describe('the API', () => {
  it('answers from the catalog', async () => {
    const ask = await startApi();
    expect(await ask('/healthz')).toEqual({ status: 200, body: { status: 'ok' } });
    expect(await ask('/v1/vms')).toMatchObject({ status: 200, body: [{ name: 'web-1', host: 'kvm-1' }] });
    expect(await ask('/v1/backups?vm=web-1')).toEqual({ status: 200, body: [] });
  });

  it.each([
    { path: '/v1/backups/abcd1234', init: {}, status: 404, type: 'BackupNotFound', message: 'abcd1234' },
    { path: '/v1/backups/..%2fx', init: {}, status: 400, type: 'InvalidRequest', message: 'id: ' },
    { path: '/v1/backups?vn=x', init: {}, status: 400, type: 'InvalidRequest', message: 'vn' },
    { path: '/v1/backups', init: post('{"vm":"../x"}'), status: 400, type: 'InvalidRequest', message: 'vm: ' },
    { path: '/v1/backups', init: post('{'), status: 400, type: 'InvalidRequest', message: 'no JSON' },
    { path: '/v1/backups', init: post(' '.repeat(70_000)), status: 400, type: 'InvalidRequest', message: 'larger' },
    {
      path: '/v1/backups',
      init: post('{"vm":"web-1"}'),
      status: 503,
      type: 'TemporalUnreachable',
      message: 'Temporal',
    },
    {
      path: '/v1/restores',
      init: post('{"backupId":"x"}'),
      status: 400,
      type: 'InvalidRequest',
      message: 'backupId: ',
    },
    { path: '/v1/jobs', init: {}, status: 503, type: 'TemporalUnreachable', message: 'Temporal' },
    { path: '/v1/vms', init: post('{}'), status: 405, type: 'MethodNotAllowed', message: 'POST' },
    { path: '/v2', init: {}, status: 404, type: 'NotFound', message: '/openapi.json' },
  ])('tells failures as the command line does: $path $status $type', async ({ path, init, status, type, message }) => {
    const ask = await startApi();
    expect(await ask(path, init)).toEqual({ status, body: failure(type, message) });
  });

  it('lets nobody in without the token, except to ask whether it is alive', async () => {
    const ask = await startApi({ token: TOKEN });
    const withToken = (token: string): RequestInit => ({ headers: { authorization: `Bearer ${token}` } });
    expect(await ask('/v1/vms')).toEqual({ status: 401, body: failure('Unauthorized', 'Bearer') });
    expect(await ask('/openapi.json', withToken(`${TOKEN}x`))).toMatchObject({ status: 401 });
    expect(await ask('/v1/vms', withToken(TOKEN))).toMatchObject({ status: 200 });
    expect(await ask('/healthz')).toMatchObject({ status: 200 });
  });

  it('without a token refuses pages in a browser', async () => {
    const ask = await startApi();
    expect(await ask('/v1/vms', { headers: { origin: 'http://example.org' } })).toMatchObject({ status: 403 });
  });

  it('without a token refuses another name for this machine', async () => {
    const catalog = await openCatalog('sqlite::memory:');
    const client = () => Promise.reject(new Error('not asked'));
    const server = createApi({ catalog, client, token: undefined, version: '0.0.0' }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const asked = request({ port, host: '127.0.0.1', path: '/v1/vms', headers: { host: 'rebound.example.org' } }).end();
    const [response] = (await once(asked, 'response')) as [{ statusCode: number; resume(): void }];
    response.resume();
    expect(response.statusCode).toBe(403);
    server.closeAllConnections();
    server.close();
    await catalog[Symbol.asyncDispose]();
  });

  it('describes each of its paths', async () => {
    const ask = await startApi();
    const { body } = await ask('/openapi.json');
    expect(Object.keys((body as { paths: object }).paths)).toEqual([
      '/healthz',
      '/v1/vms',
      '/v1/backups',
      '/v1/backups/{id}',
      '/v1/restores',
      '/v1/disk-restores',
      '/v1/validations',
      '/v1/consolidations',
      '/v1/jobs',
      '/v1/jobs/{id}',
      '/v1/jobs/{id}/cancel',
    ]);
  });
});

it('tells addresses of this machine from others', () => {
  expect(['127.0.0.1', '127.9.9.9', '::1', 'localhost'].map(isLoopback)).toEqual([true, true, true, true]);
  expect(['0.0.0.0', '::', '127.example.org', '10.0.0.1', ''].map(isLoopback)).toEqual(Array(5).fill(false));
  expect(parseListen('[::1]:7070')).toEqual({ host: '::1', port: 7070 });
  for (const bad of ['7070', '127.0.0.1', '127.0.0.1:99999', '::1:7070'])
    expect(() => parseListen(bad)).toThrow('listen');
});
