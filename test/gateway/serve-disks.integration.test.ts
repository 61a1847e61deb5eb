import { execFile } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import type { ChainFile } from '../../copier/contract.ts';
import { nbdUri, serveDisks } from '../../gateway/serve-disks.ts';
import { filePathOf } from '../../repository/source.ts';
import { encryptChain, newKeyPair } from '../support/encrypted-chain.ts';
import { chainFolder, guestBytes, makeChain, sha256, sizeOf, type Layer } from '../support/stored-chain.ts';

const MiB = 1024 * 1024;
const run = promisify(execFile);

/** A compressed full, and two increments: data over data, zeroes over data, a disk that grew. */
const LAYERS: Layer[] = [
  { size: '20M', writes: ['write -P 1 0 9M', 'write -P 2 12M 5M', 'write -P 7 19M 1M'], compress: true },
  { writes: ['write -P 3 1M 3M', 'write -z 5M 1M', 'write -P 4 13M 100k'] },
  { size: '600M', writes: ['write -P 5 2M 64k', 'write -P 6 530M 2M'] },
];

describe('serveDisks', { timeout: 60_000 }, () => {
  const opened: AsyncDisposableStack[] = [];
  afterEach(async () => {
    for (const stack of opened.splice(0)) await stack.disposeAsync();
  });

  async function served(options: { cacheBytes?: number; encrypted?: boolean } = {}): Promise<{
    uri: string;
    top: string;
    path: string;
    chain: ChainFile[];
    problems: string[];
  }> {
    const stack = new AsyncDisposableStack();
    opened.push(stack);
    const folder = stack.use(await chainFolder());
    const { chain: plain, top } = await makeChain(folder, LAYERS, [MiB, 3 * MiB]);
    const chain =
      options.encrypted === true ? await encryptChain(plain, (await newKeyPair()).recipient, [7, 16]) : plain;
    const problems: string[] = [];
    const disk = { exportName: 'vda', socketPath: join(folder.path, 'vda'), virtualSizeBytes: sizeOf(top), chain };
    const { cacheBytes = 64 * MiB } = options;
    stack.use(await serveDisks([disk], { cacheBytes, onProblem: ({ message }) => problems.push(message) }));
    return { uri: nbdUri(disk), top, path: folder.path, chain, problems };
  }

  it.each([
    ['a chain', {}],
    ['a chain that does not fit into the cache', { cacheBytes: 2 * MiB }],
    ['an encrypted chain', { encrypted: true }],
  ])('serves %s to QEMU and libnbd as the disk that the guest had', async (_, options) => {
    const { uri, top, path, problems } = await served(options);
    await run('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', uri, top]);
    await run('nbdcopy', ['--connections=3', uri, join(path, 'copy.raw')]);
    const copied = await guestBytes(join(path, 'copy.raw'), path);
    expect(sha256(copied)).toBe(sha256(await guestBytes(top, path)));
    const { stdout: map } = await run('nbdinfo', ['--map', '--json', uri]);
    const dataBytes = (JSON.parse(map) as { length: number; type: number }[])
      .filter(({ type }) => type === 0)
      .reduce((sum, { length }) => sum + length, 0);
    expect(dataBytes).toBe((9 - 1 + 5 + 1 + 2) * MiB);
    await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 5 2M 64k', '-c', 'read -P 0 5M 1M', uri]);
    expect(problems).toEqual([]);
  });

  it.each([
    ['a plain', false],
    ['an encrypted', true],
  ])('gives no altered byte of %s file to anybody, and says where it is', async (_, encrypted) => {
    const { uri, chain, problems } = await served({ encrypted });
    const stored = chain[1]!;
    const [, segment] = stored.segments; // past header and tables, which were read already
    await using handle = await open(filePathOf(stored.source), 'r+');
    await handle.write(Buffer.from([0xee]), 0, 1, segment!.offset + 100_000);
    await expect(run('nbdcopy', [uri, 'null:'])).rejects.toThrow('Input/output error');
    expect(problems.length).toBeGreaterThan(0);
    expect(new Set(problems)).toEqual(
      new Set([expect.stringMatching(new RegExp(`^${stored.source.blobKey}: bytes .* were altered`))]),
    );
    await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 6 530M 2M', uri]); // what is right is served
  });
});
