import { randomBytes, randomUUID } from 'node:crypto';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import type { BlobStoreErrorCode, PartSink } from '../../repository/blob-store.ts';
import { checkAccess, requireAccess } from '../../repository/check-access.ts';
import { createS3Store } from '../../repository/s3-store.ts';
import { openSource } from '../../repository/source.ts';
import type { S3Place } from '../../schemas/repository.ts';
import { hasStoreCode, writeStretches } from '../support/blob-store-suite.ts';
import { startFaultProxy, type Fault, type FaultProxy, type SeenRequest } from '../support/fault-proxy.ts';
import { missingS3Server, startS3Server, type S3Server } from '../support/s3-server.ts';
import { run } from '../support/run.ts';
import { tempDir, type TempDir } from '../support/temp.ts';

const MIB = 1024 * 1024;
const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'S3 in trouble', () => {
  let server: S3Server;
  let proxy: FaultProxy;
  let folder: TempDir;
  let place: S3Place;
  beforeAll(async () => {
    server = await startS3Server('versitygw');
    proxy = await startFaultProxy(server);
    folder = await tempDir('hf-s3');
  });
  beforeEach(async () => {
    proxy.onRequest = () => undefined;
    proxy.seen.length = 0;
    place = { ...(await server.newPlace()), endpoint: proxy.endpoint };
  });
  afterAll(async () => {
    await proxy[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
  });

  /** The first `times` requests that match meet the fault. */
  function disturb(matches: (request: SeenRequest) => boolean, fault: Fault, times = Infinity): () => number {
    let met = 0;
    proxy.onRequest = (request) => (matches(request) && met < times ? ((met += 1), fault) : undefined);
    return () => met;
  }

  const keysFile = async (content: string, mode = 0o600): Promise<string> => {
    const path = join(folder.path, randomUUID());
    await writeFile(path, content);
    await chmod(path, mode);
    return path;
  };
  const keysOf = ({ accessKeyId, secretAccessKey }: S3Server['keys']): string =>
    `[default]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`;
  const withKeys = async (content: string, mode?: number): Promise<S3Place> => ({
    ...place,
    credentials: { kind: 'file', path: await keysFile(content, mode), profile: null },
  });

  /** What every way to the server says: control requests by the SDK, and data requests by ourselves. */
  async function refusals(of: S3Place): Promise<{ code: BlobStoreErrorCode; message: string }[]> {
    const good = createS3Store(place);
    await good.putBlob('there', Buffer.from('content'));
    const begun = await good.createUpload('vm/part', { expectedBytes: 0 });
    const store = createS3Store(of);
    const { uploadId, ...name } = { uploadId: begun.token, key: 'vm/part' };
    const { s3Upload } = await import('../../repository/s3-upload.ts');
    const { connectionTo } = await import('../../repository/s3-connection.ts');
    const { objectKeyOf } = await import('../../repository/s3-keys.ts');
    const control = () => Promise.reject(new Error('not asked for'));
    const upload = s3Upload(connectionTo(of), control, { ...name, uploadId, objectKey: objectKeyOf(of, name.key) });
    const acts: (() => Promise<unknown>)[] = [
      () => store.getBlob('there'),
      () => store.putBlob('new', Buffer.from('new')),
      () => upload.sink.putPart(1, Buffer.from('part'), { signal: new AbortController().signal }),
    ];
    const outcomes = await Promise.allSettled(acts.map((act) => act()));
    return outcomes.map((outcome) => {
      if (outcome.status === 'fulfilled') throw new Error('was not refused');
      expect(String(outcome.reason)).not.toContain(server.keys.secretAccessKey);
      return outcome.reason as { code: BlobStoreErrorCode; message: string };
    });
  }

  it.each([
    ['an unknown key', (keys: S3Server['keys']) => ({ ...keys, accessKeyId: 'NOBODY' })],
    ['a wrong secret', (keys: S3Server['keys']) => ({ ...keys, secretAccessKey: 'f'.repeat(32) })],
  ])('says that it is denied, with the act and the object: %s', async (_, change) => {
    const found = await refusals(await withKeys(keysOf(change(server.keys))));
    expect(found.map(({ code }) => code)).toEqual(['denied', 'denied', 'denied']);
    expect(found.map(({ message }) => message)).toEqual([
      expect.stringMatching(/cannot read there: 40. .*credentials on this host/),
      expect.stringMatching(/cannot write new: 40. /),
      expect.stringMatching(/cannot write part 1 of vm\/part: 40. /),
    ]);
  });

  it('refuses a file of keys that others may read, tells when there are no keys, and takes a corrected file at once', async () => {
    const store = createS3Store(place);
    await store.putBlob('there', Buffer.from('content'));
    const open = await withKeys(keysOf(server.keys), 0o640);
    await expect(createS3Store(open).getBlob('there')).rejects.toThrow(/can be read by others.*chmod 600/);
    if (open.credentials.kind === 'file') await chmod(open.credentials.path, 0o600);
    expect((await createS3Store(open).getBlob('there')).toString()).toBe('content');
    const changed = await withKeys(keysOf({ ...server.keys, secretAccessKey: 'former' }));
    await expect(createS3Store(changed).getBlob('there')).rejects.toSatisfy(hasStoreCode('denied'));
    if (changed.credentials.kind === 'file') await writeFile(changed.credentials.path, keysOf(server.keys));
    expect((await createS3Store(changed).getBlob('there')).toString()).toBe('content');
    const other = { ...open, credentials: { ...open.credentials, profile: 'nobody' } };
    await expect(createS3Store(other).getBlob('there')).rejects.toSatisfy(hasStoreCode('denied'));
    const gone: S3Place = { ...place, credentials: { kind: 'file', path: '/nowhere/keys', profile: null } };
    await expect(createS3Store(gone).getBlob('there')).rejects.toThrow('credentials file /nowhere/keys');
  });

  it('tells a missing bucket from a missing object', async () => {
    const gone = createS3Store({ ...place, bucket: 'no-such-bucket' });
    const noBucket = hasStoreCode('no-bucket');
    await expect(gone.getBlob('a')).rejects.toSatisfy(noBucket);
    await expect(gone.statBlob('a')).rejects.toSatisfy(noBucket);
    await expect(gone.putBlob('a', Buffer.from('x'))).rejects.toSatisfy(noBucket);
    await expect(gone.createUpload('a', { expectedBytes: 0 })).rejects.toSatisfy(noBucket);
    await expect(Array.fromAsync(gone.listBlobs(''))).rejects.toSatisfy(noBucket);
    expect(await createS3Store(place).statBlob('a')).toBeUndefined();
  });

  it.each([
    ['clock-skew', 403, 'RequestTimeTooSkewed', /set the clock of this host/],
    ['full', 403, 'QuotaExceeded', /QuotaExceeded/],
    ['full', 507, 'XMinioStorageFull', /XMinioStorageFull/],
    ['locked', 403, 'AccessDenied', /object lock/],
    ['denied', 501, 'NotImplemented', /NotImplemented/],
  ] as const)('calls it %s: %i %s', async (code, status, said, message) => {
    const fault = {
      kind: 'answer',
      status,
      code: said,
      message: said === 'AccessDenied' ? 'object lock' : 'no',
    } as const;
    await createS3Store(place).putBlob('there', Buffer.from('content'));
    const original = { ...place, endpoint: server.endpoint };
    const disturbed = place;
    place = original; // what prepares goes around the proxy
    disturb(() => true, fault);
    const found = await refusals(disturbed);
    expect(found.map((error) => error.code)).toEqual([code, code, code]);
    for (const error of found) expect(error.message).toMatch(message);
  });

  it('signs by the clock of the host, and says when the server finds it wrong', async () => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 3_600_000 });
    try {
      const store = createS3Store(place);
      await expect(store.getBlob('a')).rejects.toThrow(/RequestTimeTooSkewed.*set the clock of this host/);
      await expect(store.getBlob('a')).rejects.toSatisfy(hasStoreCode('clock-skew')); // nor is it corrected silently
      await expect(openSource(store.source('a'))).rejects.toSatisfy(hasStoreCode('clock-skew'));
    } finally {
      vi.useRealTimers();
    }
  });

  it('speaks TLS with a server whose certificate is in a file, and tells what is missing without it', async () => {
    const [key, certificate] = [join(folder.path, 'key.pem'), join(folder.path, 'ca.pem')];
    await run('openssl', [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
      ...['-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', certificate],
    ]);
    await using secure = await startS3Server('versitygw', { tls: { certificate, key } });
    const there = await secure.newPlace();
    const store = createS3Store(there);
    const upload = await store.createUpload('vm/disk', { expectedBytes: 7 });
    await writeStretches(upload, [{ part: 1, offset: 0, bytes: Buffer.from('content') }]);
    await upload.finish(7);
    expect((await store.getBlob('vm/disk')).toString()).toBe('content');
    await using source = await openSource(store.source('vm/disk'));
    expect(await source.sizeBytes()).toBe(7);
    const unknown = createS3Store({ ...there, caFile: null });
    await expect(unknown.getBlob('vm/disk')).rejects.toThrow(/--ca-file/);
    await expect(openSource(unknown.source('vm/disk'))).rejects.toThrow(/--ca-file/);
  });

  it('goes on through 500, 503, resets and answers that end early, and stores each part as it was', async () => {
    const faults: Fault[] = [
      { kind: 'answer', status: 500, code: 'InternalError' },
      { kind: 'answer', status: 503, code: 'SlowDown', headers: { 'retry-after': '0.05' } },
      { kind: 'reset' },
    ];
    let count = 0;
    proxy.onRequest = () => (count++ % 3 === 2 ? faults[Math.floor(count / 3) % faults.length] : undefined);
    const content = randomBytes(12 * MIB);
    const store = createS3Store(place);
    const upload = await store.createUpload('vm/disk', { expectedBytes: content.length });
    await writeStretches(upload, [
      { part: 2, offset: 5 * MIB, bytes: content.subarray(5 * MIB, 10 * MIB) },
      { part: 3, offset: 10 * MIB, bytes: content.subarray(10 * MIB) },
      { part: 1, offset: 0, bytes: content.subarray(0, 5 * MIB) },
    ]);
    await upload.finish(content.length);
    proxy.onRequest = () => undefined;
    const met = disturb(
      ({ method, url }) => method === 'GET' && url.includes('vm/disk'),
      { kind: 'truncate', bodyBytes: 100_000 },
      2,
    );
    await using source = await openSource(store.source('vm/disk'));
    const read = Buffer.alloc(content.length);
    expect(await source.read(0, read)).toBe(content.length);
    expect(read.equals(content)).toBe(true);
    expect(met()).toBe(2);
  });

  it('gives up after six tries, saying how often it tried', async () => {
    const store = createS3Store(place);
    const { sink } = await store.createUpload('vm/disk', { expectedBytes: 0 });
    const met = disturb(({ method }) => method === 'PUT', {
      kind: 'answer',
      status: 503,
      code: 'SlowDown',
      headers: { 'retry-after': '0.01' },
    });
    const putting = (sink as PartSink).putPart(1, Buffer.alloc(10), { signal: new AbortController().signal });
    await expect(putting).rejects.toMatchObject({
      code: 'unavailable',
      message: expect.stringMatching(/cannot write part 1 of vm\/disk: 503 SlowDown .*\(tried 6 times\)/) as string,
    });
    expect(met()).toBe(6);
  });

  it('lets go of a stalled request as soon as it is told to', async () => {
    const store = createS3Store(place);
    const { sink } = await store.createUpload('vm/disk', { expectedBytes: 0 });
    const stalled = Promise.withResolvers<undefined>();
    proxy.onRequest = ({ method }) => {
      if (method !== 'PUT') return undefined;
      stalled.resolve(undefined);
      return { kind: 'hold' };
    };
    const stop = new AbortController();
    const putting = (sink as PartSink).putPart(1, Buffer.alloc(10), { signal: stop.signal });
    await stalled.promise;
    stop.abort(new Error('cancelled by a person'));
    await expect(putting).rejects.toThrow('cancelled by a person');
  });

  it('does not take a part that changed on its way', async () => {
    const { uploadId, objectKey } = await (async () => {
      const upload = await createS3Store(place).createUpload('vm/disk', { expectedBytes: 0 });
      return { uploadId: upload.token, objectKey: `${place.prefix}/vm/disk` };
    })();
    const { connectionTo } = await import('../../repository/s3-connection.ts');
    const { sendData } = await import('../../repository/s3-request.ts');
    const sending = sendData(connectionTo(place), {
      method: 'PUT',
      objectKey,
      query: { partNumber: '1', uploadId },
      headers: { 'x-amz-checksum-crc32': 'AAAAAA==' }, // of other bytes
      body: Buffer.from('these bytes'),
      act: 'write part 1 of vm/disk',
      key: 'vm/disk',
    });
    await expect(sending).rejects.toThrow(/cannot write part 1 of vm\/disk: 400 /);
    const upload = await createS3Store(place).resumeUpload('vm/disk', uploadId);
    expect([...(await (upload!.sink as PartSink).storedParts())]).toEqual([]);
  });

  it('finishes an upload whose answer was lost, and only that', async () => {
    const store = createS3Store(place);
    const upload = await store.createUpload('vm/disk', { expectedBytes: 0 });
    await writeStretches(upload, [{ part: 1, offset: 0, bytes: Buffer.from('content') }]);
    let isLost = false;
    proxy.onRequest = ({ method, url }) => {
      if (isLost || method !== 'POST' || !url.includes('uploadId')) return undefined;
      isLost = true;
      return { kind: 'truncate', bodyBytes: 0 };
    };
    await upload.finish(7);
    expect(isLost).toBe(true);
    expect((await store.getBlob('vm/disk')).toString()).toBe('content');
    const other = await store.createUpload('vm/other', { expectedBytes: 0 });
    await writeStretches(other, [{ part: 1, offset: 0, bytes: Buffer.from('content') }]);
    await other.abort();
    await store.putBlob('vm/other', Buffer.from('of somebody else'));
    await expect(other.finish(7)).rejects.toSatisfy(hasStoreCode('not-found'));
  });

  it('lists no objects where it copies', async () => {
    const store = createS3Store(place);
    const upload = await store.createUpload('vm/disk', { expectedBytes: 0 });
    await writeStretches(upload, [{ part: 1, offset: 0, bytes: Buffer.from('content') }]);
    await (await store.resumeUpload('vm/disk', upload.token))!.finish(7);
    await store.putBlob('vm/backups/1.json', Buffer.from('{}'));
    await using source = await openSource(store.source('vm/disk'));
    await source.read(0, Buffer.alloc(7));
    expect(proxy.seen.filter(({ url }) => url.includes('list-type'))).toEqual([]);
  });

  it('names what stays when it may write and not delete', async () => {
    const store = createS3Store(place);
    // The second time what was written may not be read either, so that the check ends before it comes to its upload.
    for (const isRead of [true, false]) {
      let isWritten = false;
      proxy.onRequest = ({ method, url }) => {
        if (!url.includes('access-check')) return undefined;
        isWritten ||= method === 'PUT';
        const isRefused =
          (method === 'DELETE' && !url.includes('uploadId')) || (!isRead && isWritten && url.includes('GetObject'));
        return isRefused ? { kind: 'answer', status: 403, code: 'AccessDenied' } : undefined;
      };
      const error: unknown = await requireAccess(store).catch((reason: unknown) => reason);
      proxy.onRequest = () => undefined;
      const kept = (await Array.fromAsync(store.listBlobs(''))).map(({ key }) => key);
      expect(kept).toHaveLength(isRead ? 2 : 1);
      for (const key of kept) {
        expect(error).toMatchObject({ code: 'denied', message: expect.stringContaining(key) as string });
        await store.deleteBlob(key);
      }
    }
  });

  it('names the act that is not allowed before it takes a place, and leaves nothing there', async () => {
    const store = createS3Store(place);
    await requireAccess(store);
    const isOf = {
      read: ({ method, url }: SeenRequest) => method === 'GET' && url.includes('repository.json'),
      write: ({ method }: SeenRequest) => method === 'PUT',
      upload: ({ method }: SeenRequest) => method === 'POST',
      list: ({ url }: SeenRequest) => url.includes('list-type'),
      delete: ({ method, url }: SeenRequest) => method === 'DELETE' && !url.includes('uploadId'),
    };
    for (const [act, matches] of Object.entries(isOf)) {
      disturb(matches, { kind: 'answer', status: 403, code: 'AccessDenied' });
      await expect(requireAccess(store)).rejects.toThrow(`the check of ${act} access failed`);
      proxy.onRequest = () => undefined;
      if (act !== 'delete') expect(await Array.fromAsync(store.listBlobs(''))).toEqual([]);
    }
    const kept = (await Array.fromAsync(store.listBlobs(''))).map(({ key }) => key);
    expect(kept).toHaveLength(2);
    for (const key of kept) await store.deleteBlob(key);
    expect((await checkAccess(store)).map(({ problem }) => problem)).toEqual([null, null, null, null, null]);
  });
});
