import { createHash } from 'node:crypto';
import { execFile } from 'node:child_process';
import { mkdir, open, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ChainFile } from '../../copier/contract.ts';
import { createCopierPool } from '../../copier/pool.ts';
import { isSegmentFolderOff, openSegmentFolder, type KeptSegments } from '../../gateway/segment-folder.ts';
import { nbdUri, serveDisks } from '../../gateway/serve-disks.ts';
import { openBlobStore } from '../../repository/open-repository.ts';
import { encryptChain, newKeyPair } from '../support/encrypted-chain.ts';
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.ts';
import { missingS3Server, startS3Server } from '../support/s3-server.ts';
import { chainFolder, makeChain, sizeOf, type Layer } from '../support/stored-chain.ts';

const MiB = 1024 * 1024;
const run = promisify(execFile);
const LAYERS: Layer[] = [
  { size: '24M', writes: ['write -P 1 0 9M', 'write -P 2 12M 5M'], compress: true },
  { writes: ['write -P 3 1M 3M', 'write -z 5M 1M', 'write -P 4 13M 4M'] },
];
const missing = missingS3Server('versitygw');

describe.skipIf(missing !== undefined)(missing ?? 'segments of a bucket, kept on the host', { timeout: 60_000 }, () => {
  const opened = new AsyncDisposableStack();
  let proxy: FaultProxy;
  let folder: string;
  let top: string;
  let plain: ChainFile[];
  let sealed: ChainFile[];

  beforeAll(async () => {
    const server = opened.use(await startS3Server('versitygw'));
    proxy = opened.use(await startFaultProxy(server));
    const local = opened.use(await chainFolder());
    folder = local.path;
    const made = await makeChain(local, LAYERS, [MiB]);
    top = made.top;
    const place = { ...(await server.newPlace()), endpoint: proxy.endpoint };
    plain = await intoBucket(made.chain);
    sealed = await intoBucket(await encryptChain(made.chain, (await newKeyPair()).recipient, [16]));

    async function intoBucket(chain: ChainFile[]): Promise<ChainFile[]> {
      const store = openBlobStore(place);
      await using pool = createCopierPool();
      const { signal } = new AbortController();
      for (const file of chain) {
        const upload = await store.createUpload(file.source.blobKey, { expectedBytes: file.storedBytes });
        await pool.transferFile({ file, sink: upload.sink, resumed: false, signal });
        await upload.finish(file.storedBytes);
      }
      return chain.map((file) => ({ ...file, source: store.source(file.source.blobKey) }));
    }
  });
  afterAll(() => opened.disposeAsync());

  /** A gateway that begins reads all of the disk, and finds what the guest had; how many times it asked the bucket for bytes. */
  async function readAll(chain: ChainFile[], kept: KeptSegments): Promise<number> {
    const problems: string[] = [];
    const disk = { exportName: 'vda', socketPath: join(folder, 'vda'), virtualSizeBytes: sizeOf(top), chain };
    const onProblem = ({ message }: Error) => void problems.push(message);
    await using _server = await serveDisks([disk], { cacheBytes: 16 * MiB, kept, onProblem });
    const before = proxy.seen.length;
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', nbdUri(disk), top]);
    expect(problems).toEqual([]);
    return proxy.seen.slice(before).filter(({ method }) => method === 'GET').length;
  }
  const filesOf = async ({ folder: at }: KeptSegments): Promise<string[]> =>
    (await readdir(at)).map((name) => join(at, name));
  const openAnew = (name: string): Promise<KeptSegments> =>
    openSegmentFolder(join(folder, name), { maxBytes: 100 * MiB });

  it('are not asked for again, by this process or the next', async () => {
    expect(await readAll(plain, await openAnew('again'))).toBeGreaterThan(5);
    const before = proxy.seen.length;
    expect(await readAll(plain, await openAnew('again'))).toBe(0);
    expect(proxy.seen.slice(before).filter(({ method }) => method === 'GET')).toEqual([]); // nor for the tables
  });

  it('are fetched anew where they were altered or cut on the disk', async () => {
    const kept = await openAnew('altered');
    await readAll(plain, kept);
    const [altered = '', cut = '', ...others] = await filesOf(kept);
    expect(others.length).toBeGreaterThan(3);
    await using file = await open(altered, 'r+');
    await file.write(Buffer.from([0xee]), 0, 1, 1000);
    await run('truncate', ['-s', '1000', cut]);
    expect(await readAll(plain, await openAnew('altered'))).toBeLessThanOrEqual(2);
    for (const path of await filesOf(kept)) {
      const found = createHash('sha256')
        .update(await readFile(path))
        .digest('hex');
      expect(path.endsWith(`/${found}`)).toBe(true);
    }
    expect(await readAll(plain, await openAnew('altered'))).toBe(0);
  });

  it('stay as they are stored: of an encrypted backup no plain byte lies on the disk', async () => {
    const kept = await openAnew('sealed');
    await readAll(sealed, kept);
    expect(await readAll(sealed, await openAnew('sealed'))).toBe(0);
    const files = await filesOf(kept);
    expect(files.length).toBeGreaterThan(5);
    for (const path of files) expect((await readFile(path)).includes(Buffer.alloc(32, 3))).toBe(false);
    const inClear = await openAnew('again');
    const found = await Promise.all((await filesOf(inClear)).map((path) => readFile(path)));
    expect(found.some((bytes) => bytes.includes(Buffer.alloc(32, 3)))).toBe(true); // the marker can be found
  });

  it('take no more room than they may', async () => {
    const kept = await openSegmentFolder(join(folder, 'bounded'), { maxBytes: 3 * MiB });
    const first = await readAll(plain, kept);
    const sizes = await Promise.all((await filesOf(kept)).map(async (path) => (await stat(path)).size));
    expect(sizes.length).toBeGreaterThan(0);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(3 * MiB);
    const again = await readAll(plain, await openSegmentFolder(join(folder, 'bounded'), { maxBytes: 3 * MiB }));
    expect(again).toBeGreaterThan(0);
    expect(again).toBeLessThan(first);
  });

  it.each([
    ['is full', -Infinity],
    ['is nearly full', 64 * MiB],
  ])('go, and are not missed, when the disk %s', async (name, leastFreeBytes) => {
    const path = join(folder, name.replaceAll(' ', '-'));
    await mkdir(path);
    await run('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', path]);
    try {
      const kept = await openSegmentFolder(join(path, 'kept'), { maxBytes: 100 * MiB, leastFreeBytes });
      await writeFile(join(path, 'others'), Buffer.alloc(14.5 * MiB));
      expect(await readAll(plain, kept)).toBeGreaterThan(5);
      expect(isSegmentFolderOff(kept)).toBe(true);
      expect(await filesOf(kept)).toEqual([]);
    } finally {
      await run('umount', ['-l', path]);
    }
  });
});
