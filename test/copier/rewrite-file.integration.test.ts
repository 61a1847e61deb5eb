import { randomBytes } from 'node:crypto';
import { open, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { CopierError, type ChainFile, type RewriteOptions, type RewriteResult } from '../../copier/contract.ts';
import { rewriteFile } from '../../copier/rewrite-file.ts';
import { COPIER_HANDLERS } from '../../copier/thread-handlers.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { nameOfKey } from '../../repository/layout.ts';
import { filePathOf } from '../../repository/source.ts';
import {
  chainFolder,
  describeStored,
  guestBytes,
  keyOf,
  makeChain,
  qemuImg,
  sha256,
  sizeOf,
  type Layer,
} from '../support/stored-chain.ts';

const MIB = 1024 * 1024;
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

const FULL: Layer = {
  size: '64M',
  writes: ['write -P 1 0 8M', 'write -P 2 20M 3M', 'write -P 0 30M 1M', 'write -P 3 63M 1M'],
};
const MIXED: Layer[] = [
  FULL,
  { writes: ['write -P 4 1M 100k', 'write -z 2M 1M', 'write -P 0 3M 128k', 'write -P 5 40M 1M', 'write -z 50M 2M'] },
  { writes: ['write -P 6 2100k 64k', 'write -P 7 7M 3M', 'write -z 21M 64k'] },
];

type Folder = Awaited<ReturnType<typeof chainFolder>>;

/** Rewrites files of a chain beside; gives the path and what came of it. */
async function rewrite(
  chain: ChainFile[],
  options: Partial<RewriteOptions> & { below?: ChainFile } = {},
): Promise<{ path: string; result: RewriteResult }> {
  const { below, ...rest } = options;
  const path = `${filePathOf(chain.at(-1)!.source)}.rewritten`;
  const sink = { kind: 'file', path, blobKey: `${chain.at(-1)!.source.blobKey}.rewritten` } as const;
  await writeFile(path, '');
  const result = await rewriteFile(pool, {
    chain,
    ...(below ? { backingFileName: nameOfKey(below.source.blobKey) } : {}),
    virtualSizeBytes: sizeOf(filePathOf(chain.at(-1)!.source)),
    compression: 'zstd',
    sink,
    finish: () => Promise.resolve(sink),
    signal,
    ...rest,
  });
  await expectDescribed(path, result);
  qemuImg('check', '-q', path);
  return { path, result };
}

const expectSameDisk = async (folder: Folder, one: string, other: string): Promise<void> =>
  expect((await guestBytes(one, folder.path)).equals(await guestBytes(other, folder.path))).toBe(true);

/** The result tells of every byte of the file. */
async function expectDescribed(path: string, { storedBytes, segments }: RewriteResult): Promise<void> {
  const bytes = await readFile(path);
  expect(bytes.length).toBe(storedBytes);
  let at = 0;
  for (const { offset, lengthBytes, sha256: expected } of segments) {
    expect(offset).toBe(at);
    at += lengthBytes;
    expect(sha256(bytes.subarray(offset, at))).toBe(expected);
  }
  expect(at).toBe(storedBytes);
}

/** What an image says itself of its disk: data and explicit zeroes; not what lies beneath. */
const ownMap = (image: string): unknown[] =>
  (
    JSON.parse(qemuImg('map', '--output=json', image)) as {
      start: number;
      length: number;
      depth: number;
      zero: boolean;
      present: boolean;
    }[]
  )
    .filter(({ depth, present }) => depth === 0 && present)
    .flatMap(({ start, length }) => Array.from({ length: length / 65_536 }, (_, n) => start / 65_536 + n));

describe('rewriteFile', () => {
  it('compresses a full: the guest finds the same, in fewer bytes', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [FULL]);
    const { path, result } = await rewrite(chain);
    await expectSameDisk(folder, path, top);
    expect(result.storedBytes).toBeLessThan((await stat(top)).size / 5);
    expect(result.clusterBytes).toBe(65_536);
  });

  it.each([1, 2])(
    'compresses increment %i of a chain in its place: each backup of the chain stays as it is',
    async (n) => {
      await using folder = await chainFolder();
      const { chain, paths } = await makeChain(folder, MIXED);
      const before = await Promise.all(paths.map((each) => guestBytes(each, folder.path)));
      const described = ownMap(paths[n]!);
      const { path } = await rewrite([chain[n]!], { below: chain[n - 1]! });
      await rename(path, paths[n]!);
      expect(ownMap(paths[n]!)).toEqual(described);
      const after = await Promise.all(paths.map((each) => guestBytes(each, folder.path)));
      expect(after.map((bytes, index) => bytes.equals(before[index]!))).toEqual([true, true, true]);
    },
  );

  it.each([
    { name: 'plain', compression: 'none' as const },
    { name: 'compressed', compression: 'zstd' as const },
  ])(
    'merges a full and an increment into one full, $name; what is built on it stays as it is',
    async ({ compression }) => {
      await using folder = await chainFolder();
      const { chain, paths } = await makeChain(folder, [
        { ...FULL, options: 'cluster_size=256k', compress: true },
        ...MIXED.slice(1),
      ]);
      const before = await Promise.all(paths.map((each) => guestBytes(each, folder.path)));
      const { path } = await rewrite(chain.slice(0, 2), { compression });
      expect(JSON.parse(qemuImg('info', '--output=json', path))).not.toHaveProperty('backing-filename');
      await rename(path, paths[1]!);
      await rename(paths[0]!, `${paths[0]!}.gone`);
      expect((await guestBytes(paths[1]!, folder.path)).equals(before[1]!)).toBe(true);
      expect((await guestBytes(paths[2]!, folder.path)).equals(before[2]!)).toBe(true);
      // and again: the merged full with the next
      const merged = await describeStored(paths[1]!, keyOf(paths[1]!));
      const again = await rewrite([merged, chain[2]!], { compression });
      expect((await guestBytes(again.path, folder.path)).equals(before[2]!)).toBe(true);
    },
  );

  it('takes a disk whose size is not of whole clusters, and one without any data', async () => {
    await using folder = await chainFolder();
    const odd = await makeChain(folder, [
      { size: String(3 * MIB + 512), writes: [`write -P 9 ${3 * MIB - 65_536} ${65_536 + 512}`] },
    ]);
    const { path } = await rewrite(odd.chain);
    await expectSameDisk(folder, path, odd.top);
    await using other = await chainFolder();
    const empty = await makeChain(other, [{ size: '1G', writes: [] }]);
    const rewritten = await rewrite(empty.chain);
    qemuImg('compare', '-q', rewritten.path, empty.top);
  });

  it('never has the length it must not have', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [FULL]);
    const { result } = await rewrite(chain);
    const other = await rewrite(chain, { otherThanBytes: result.storedBytes });
    expect(other.result.storedBytes).toBe(result.storedBytes + result.clusterBytes);
    await expectSameDisk(folder, other.path, top);
  });

  it('uses no byte that does not match its hash', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [FULL]);
    {
      await using file = await open(top, 'r+');
      await file.write(Buffer.from('x'), 0, 1, 5 * MIB);
    }
    await expect(rewrite(chain)).rejects.toSatisfy(
      (error) => error instanceof CopierError && error.code === 'integrity' && error.file === chain[0]!.source.blobKey,
    );
  });

  it('notices when what was written reads otherwise than what it was made from', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, [FULL]);
    // A thread that tells another content than it stored: as a faulty memory or compressor would.
    const handler = join(folder.path, 'faulty.ts');
    const real = new URL('../../copier/rewrite-segment.ts', import.meta.url).href;
    await writeFile(
      handler,
      `import { handle as real } from '${real}';
       export const handle = async (task, context) => ({ ...(await real(task, context)), fingerprint: new Uint8Array(32).fill(1) });`,
    );
    await using faulty = new ThreadPool({ threads: 1, handlers: { ...COPIER_HANDLERS, 'rewrite-segment': handler } });
    const path = folder.file('new.qcow2');
    const sink = { kind: 'file', path, blobKey: 'new' } as const;
    await writeFile(path, '');
    await expect(
      rewriteFile(faulty, {
        chain,
        virtualSizeBytes: 64 * MIB,
        compression: 'zstd',
        sink,
        finish: () => Promise.resolve(sink),
        signal,
      }),
    ).rejects.toThrow(/does not read as what it was made from/);
  });

  it('stops when it is told to', async () => {
    await using folder = await chainFolder();
    const random = join(folder.path, 'random');
    await writeFile(random, randomBytes(16 * MIB));
    const { chain } = await makeChain(folder, [{ size: '64M', writes: [`write -s ${random} 0 16M`] }]);
    const stop = new AbortController();
    const path = folder.file('new.qcow2');
    const sink = { kind: 'file', path, blobKey: 'new' } as const;
    await writeFile(path, '');
    await expect(
      rewriteFile(pool, {
        chain,
        virtualSizeBytes: 64 * MIB,
        compression: 'zstd',
        sink,
        finish: () => Promise.resolve(sink),
        signal: stop.signal,
        onProgress: () => stop.abort(new Error('enough')),
      }),
    ).rejects.toThrow('enough');
  });
});
