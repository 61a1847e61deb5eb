import { readdir, readFile, rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { ChainFile } from '../../copier/contract.ts';
import { restoreDisk } from '../../copier/restore-disk.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { verifyFile } from '../../copier/verify-file.ts';
import { filePathOf } from '../../repository/source.ts';
import { encryptChain, newKeyPair } from '../support/encrypted-chain.ts';
import { chainFolder, guestBytes, makeChain, occupiedBytes, qemuImg, sizeOf } from '../support/stored-chain.ts';
import { hasCode, MIXED } from './restore-scene.ts';

const MIB = 1024 * 1024;
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

/** Restores in both formats and compares every byte a guest would read. */
async function expectRestored(
  folder: Awaited<ReturnType<typeof chainFolder>>,
  chain: ChainFile[],
  top: string,
): Promise<void> {
  const expected = await guestBytes(top, folder.path);
  for (const format of ['qcow2', 'raw'] as const) {
    const path = join(folder.path, `restored.${format}`);
    const result = await restoreDisk(pool, {
      chain,
      destination: { path, format },
      virtualSizeBytes: sizeOf(top),
      signal,
    });
    expect(result.verifiedBytes).toBe(chain.reduce((sum, file) => sum + file.storedBytes, 0));
    const restored = format === 'raw' ? await readFile(path) : await guestBytes(path, folder.path);
    expect(restored.length).toBe(expected.length);
    expect(restored.equals(expected)).toBe(true);
    if (format === 'qcow2') {
      qemuImg('check', '-q', path);
      qemuImg('compare', '-q', path, top);
      const info = JSON.parse(qemuImg('info', '--output=json', path)) as Record<string, unknown>;
      expect(info).toMatchObject({ 'cluster-size': 65_536, 'virtual-size': expected.length });
      expect(info).not.toHaveProperty('backing-filename');
    }
    await rm(path);
  }
}

describe('restoreDisk', () => {
  it('gives each byte of a chain, as qcow2 and as raw', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, MIXED);
    await expectRestored(folder, chain, top);
  });

  it('decompresses, with clusters of several sizes in one chain', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [
      { ...MIXED[0]!, options: 'cluster_size=256k', compress: true },
      { ...MIXED[1]! },
      { ...MIXED[2]!, options: 'cluster_size=64k' },
    ]);
    await expectRestored(folder, chain, top);
  });

  it.each([
    [[1_000_003], 'odd segments'],
    [[65_536], 'segments of one cluster'],
    [[4096, 512, 1, 100_000], 'segments of all sizes'],
    [[64 * MIB], 'one segment'],
  ])('reads files that are cut into other segments: %j', async (cuts) => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [{ ...MIXED[0]!, compress: true }, ...MIXED.slice(1)], cuts);
    await expectRestored(folder, chain, top);
  });

  it.each([[[64]], [[1]], [[1, 3, 17]]])('reads encrypted files, in segments of %j chunks', async (cuts) => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, [{ ...MIXED[0]!, compress: true }, ...MIXED.slice(1)]);
    const { recipient } = await newKeyPair();
    await expectRestored(folder, await encryptChain(chain, recipient, cuts), top);
  });

  it('takes encrypted and plain files in one chain', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, MIXED);
    const encrypted = await encryptChain(chain, (await newKeyPair()).recipient);
    await expectRestored(folder, [chain[0]!, encrypted[1]!, chain[2]!], top);
  });

  it('opens no file with the key of another one', async () => {
    await using folder = await chainFolder();
    const { chain, top } = await makeChain(folder, MIXED.slice(0, 2));
    const [full, increment] = await encryptChain(chain, (await newKeyPair()).recipient);
    const { payloadKey } = full!.encryption!;
    const wrong = { ...increment!, encryption: { ...increment!.encryption!, payloadKey } };
    const path = join(folder.path, 'restored.raw');
    const options = { destination: { path, format: 'raw' as const }, virtualSizeBytes: sizeOf(top), signal };
    await expect(restoreDisk(pool, { chain: [full!, wrong], ...options })).rejects.toSatisfy(
      hasCode('integrity', wrong.source.blobKey),
    );
    expect(await readdir(folder.path)).toEqual(['disk-0']);
  });

  it('compares the hashes of encrypted files without their key', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED.slice(0, 1));
    const [encrypted] = await encryptChain(chain, (await newKeyPair()).recipient);
    const { encryption: _, ...stored } = encrypted!;
    await verifyFile(pool, stored, { signal });
    await truncate(filePathOf(stored.source), stored.storedBytes - 1);
    await expect(verifyFile(pool, stored, { signal })).rejects.toSatisfy(hasCode('integrity', stored.source.blobKey));
  });

  it.each(['512', '1049088', '68157952'])('keeps an odd size: %s bytes', async (size) => {
    await using folder = await chainFolder();
    const last = Number(size) - 512;
    const { chain, top } = await makeChain(folder, [
      { size, writes: [`write -P 1 ${last} 512`] },
      { writes: size === '512' ? [] : [`write -P 2 ${last} 512`, 'write -P 3 0 512'] },
    ]);
    await expectRestored(folder, chain, top);
  });

  it.each(['512', '4k', '2M'])('takes clusters of %s', async (cluster) => {
    await using folder = await chainFolder();
    const options = `cluster_size=${cluster}`;
    const { chain, top } = await makeChain(folder, [
      { size: '16M', options, writes: ['write -P 1 1234k 3k', 'write -P 2 5M 700k'] },
      { options: 'cluster_size=64k', writes: ['write -P 3 1235k 1k'] },
      { options, writes: ['write -P 4 5M 512', 'write -P 5 6M 100k'] },
    ]);
    await expectRestored(folder, chain, top);
  });

  it('restores an empty disk, and a sparse one of 2 TiB with little room', async () => {
    await using folder = await chainFolder();
    const empty = await makeChain(folder, [{ size: '10M', writes: [] }, { writes: [] }]);
    await expectRestored(folder, empty.chain, empty.top);

    await using large = await chainFolder();
    const { chain, top } = await makeChain(large, [
      { size: '2T', writes: ['write -P 1 0 1M', 'write -P 2 1999G 1M'] },
      { writes: ['write -P 3 1000G 64k'] },
    ]);
    const path = join(large.path, 'restored.qcow2');
    await restoreDisk(pool, { chain, destination: { path, format: 'qcow2' }, virtualSizeBytes: 2 ** 41, signal });
    qemuImg('check', '-q', path);
    qemuImg('compare', '-q', path, top);
    expect(await occupiedBytes(path)).toBeLessThan(4 * MIB);
  });

  it('leaves holes where the guest has no data', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED);
    const path = join(folder.path, 'restored.raw');
    await restoreDisk(pool, { chain, destination: { path, format: 'raw' }, virtualSizeBytes: 64 * MIB, signal });
    expect(await occupiedBytes(path)).toBeLessThan(18 * MIB);
  });

  it('tells how far it is', async () => {
    await using folder = await chainFolder();
    const { chain } = await makeChain(folder, MIXED);
    const seen: { verifiedBytes: number; totalBytes: number }[] = [];
    const path = join(folder.path, 'restored.raw');
    const destination = { path, format: 'raw' } as const;
    await restoreDisk(pool, {
      chain,
      destination,
      virtualSizeBytes: 64 * MIB,
      signal,
      onProgress: (p) => void seen.push(p),
    });
    const totalBytes = chain.reduce((sum, file) => sum + file.storedBytes, 0);
    expect(seen.at(-1)).toEqual({ verifiedBytes: totalBytes, totalBytes });
    expect(seen.map((each) => each.verifiedBytes)).toEqual(
      seen.map((each) => each.verifiedBytes).toSorted((a, b) => a - b),
    );
  });
});
