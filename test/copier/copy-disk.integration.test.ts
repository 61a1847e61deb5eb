import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { createCopierPool } from '../../copier/pool.ts';
import { startQemuNbd } from '../nbd/real-nbd-server.ts';
import { run } from '../support/run.ts';
import { tempDir } from '../support/temp.ts';
import { change, copyOf, expectSameDisk, expectSound, GIB, KIB, makeDisk, MIB, noiseFile } from './copy-fixture.ts';

const pool = createCopierPool();
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

/** Data of all kinds: compressible, not, zero on disk, scattered. */
async function mixedDisk(folder: string, sizeBytes: number): Promise<string> {
  const path = join(folder, 'live.qcow2');
  const noise = noiseFile(folder, 5 * MIB);
  await makeDisk(path, sizeBytes, [
    `write -s ${noise} 1M 5M`,
    'write -P 97 8M 6M',
    'write -P 0 16M 2M',
    `write -s ${noise} 20M 300k`,
    'write -P 98 20800k 100k',
    ...Array.from({ length: 20 }, (_, i) => `write -P ${i + 1} ${24 + i}M 5k`),
    `write -P 99 ${sizeBytes - 10 * KIB} 10k`,
  ]);
  return path;
}

describe.each(['none', 'zstd'] as const)('a full copy, compression %s', (compression) => {
  it('is the disk, byte for byte, with a hash for every byte stored', async () => {
    await using folder = await tempDir();
    const live = await mixedDisk(folder.path, 100 * MIB + 512);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, 100 * MIB + 512, { compression });
    const progress: number[] = [];
    const plans: { changedBytes: number; expectedStoredBytes: number }[] = [];
    const result = await pool.copyDisk({
      ...copy,
      signal,
      onProgress: ({ copiedBytes, totalBytes }) => progress.push(copiedBytes / totalBytes),
      onPlanned: async (plan) => {
        plans.push(plan);
        expect(statSync(copy.path).size).toBe(0);
      },
    });
    await expectSound(copy.path, result);
    await expectSameDisk(live, copy.path);
    expect(result).toMatchObject({ clusterBytes: 256 * KIB, resumedSegments: 0, changedBytes: plans[0]!.changedBytes });
    expect(result.storedBytes).toBeLessThanOrEqual(plans[0]!.expectedStoredBytes);
    expect(progress.at(-1)).toBe(1);
    if (compression === 'zstd') {
      const { stdout } = await run('qemu-img', ['check', '--output=json', copy.path]);
      expect((JSON.parse(stdout.toString()) as Record<string, number>)['compressed-clusters']).toBeGreaterThan(20);
    }
  });

  it.each([0, 512, 64 * KIB - 512, 64 * KIB, 256 * KIB + 512, 4 * MIB, 4 * MIB + 1024])(
    'of a disk of %i bytes',
    async (sizeBytes) => {
      await using folder = await tempDir();
      const live = join(folder.path, 'live.qcow2');
      await makeDisk(live, sizeBytes, sizeBytes === 0 ? [] : [`write -P 5 0 ${sizeBytes}`]);
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      const copy = copyOf(folder.path, server.socketPath, sizeBytes, { compression });
      const result = await pool.copyDisk({ ...copy, signal });
      await expectSound(copy.path, result);
      await expectSameDisk(live, copy.path);
    },
  );

  it('of a raw disk', async () => {
    await using folder = await tempDir();
    const live = await mixedDisk(folder.path, 64 * MIB);
    const raw = join(folder.path, 'live.raw');
    await run('qemu-img', ['convert', '-O', 'raw', live, raw]);
    await using server = await startQemuNbd(folder.path, ['-f', 'raw', raw]);
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB, { compression });
    await expectSound(copy.path, await pool.copyDisk({ ...copy, signal }));
    await expectSameDisk(live, copy.path);
  });
});

describe.each(['none', 'zstd'] as const)('an incremental copy, compression %s', (compression) => {
  it('makes the chain the live disk again, having read only what changed', async () => {
    await using folder = await tempDir();
    const sizeBytes = 100 * MIB + 512;
    const live = await mixedDisk(folder.path, sizeBytes);
    {
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      await pool.copyDisk({ ...copyOf(folder.path, server.socketPath, sizeBytes, { compression }), signal });
    }
    let parent = 'full.qcow2';
    for (const [i, changes] of [
      [
        'write -P 7 2M 300k',
        'write -P 0 9M 100k',
        'write -z -u 1M 64k',
        'discard 4M 1M',
        `write -P 8 ${sizeBytes - 512} 512`,
      ],
      ['write -P 9 90M 1k', 'write -z 0 20M'],
      [],
    ].entries()) {
      await run('qemu-img', ['bitmap', '--add', live, `b${i}`]);
      await change(live, changes);
      await using server = await startQemuNbd(folder.path, ['-B', `b${i}`, '-f', 'qcow2', live]);
      const copy = copyOf(folder.path, server.socketPath, sizeBytes, {
        name: `incr-${i}.qcow2`,
        mapContext: `qemu:dirty-bitmap:b${i}`,
        backingFileName: parent,
        compression,
      });
      const result = await pool.copyDisk({ ...copy, signal });
      await expectSound(copy.path, result);
      await expectSameDisk(live, copy.path);
      expect(result.clusterBytes).toBe(64 * KIB);
      expect(result.readBytes).toBeLessThanOrEqual(result.changedBytes * 1.02);
      const { stdout } = await run('qemu-img', ['info', '--output=json', copy.path]);
      expect(JSON.parse(stdout.toString())).toMatchObject({
        'backing-filename': parent,
        'backing-filename-format': 'qcow2',
      });
      parent = `incr-${i}.qcow2`;
    }
  });

  it('copies the top layers of a chain', async () => {
    await using folder = await tempDir();
    const live = await mixedDisk(folder.path, 64 * MIB);
    {
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      await pool.copyDisk({ ...copyOf(folder.path, server.socketPath, 64 * MIB, { compression }), signal });
    }
    for (const [layer, below] of [
      ['one', 'live'],
      ['two', 'one'],
    ] as const) {
      const path = join(folder.path, `${layer}.qcow2`);
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', `${below}.qcow2`, path]);
      await change(
        path,
        layer === 'one' ? ['write -P 1 1M 2M', 'write -z 9M 1M'] : ['write -P 2 2M 2M', 'write -P 0 20M 64k'],
      );
    }
    const top = join(folder.path, 'two.qcow2');
    await using server = await startQemuNbd(folder.path, ['-A', '-f', 'qcow2', top]);
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB, {
      name: 'incr.qcow2',
      backingFileName: 'full.qcow2',
      compression,
    });
    const source = { ...copy.source, mapContext: 'qemu:allocation-depth', allocationDepth: 2 };
    const result = await pool.copyDisk({ ...copy, source, signal });
    await expectSound(copy.path, result);
    await expectSameDisk(top, copy.path);
    expect(result.changedBytes).toBe(4 * MIB + 64 * KIB);
  });

  it('stores changed zeroes unread, and zeroes found while reading, as zero clusters', async () => {
    await using folder = await tempDir();
    const live = join(folder.path, 'live.qcow2');
    await makeDisk(live, 16 * MIB, ['write -P 1 0 16M']);
    {
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      await pool.copyDisk({ ...copyOf(folder.path, server.socketPath, 16 * MIB, { compression }), signal });
    }
    await run('qemu-img', ['bitmap', '--add', live, 'b']);
    await change(live, ['write -z 0 4M', 'write -P 0 8M 1M']);
    await using server = await startQemuNbd(folder.path, ['-B', 'b', '-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, 16 * MIB, {
      name: 'incr.qcow2',
      mapContext: 'qemu:dirty-bitmap:b',
      backingFileName: 'full.qcow2',
      compression,
    });
    const result = await pool.copyDisk({ ...copy, signal });
    expect(result).toMatchObject({ changedBytes: 5 * MIB, readBytes: MIB });
    expect(result.storedBytes).toBeLessThan(MIB);
    await expectSound(copy.path, result);
    await expectSameDisk(live, copy.path);
  });
});

describe('several copies at once', () => {
  it('share the threads', async () => {
    await using folder = await tempDir();
    const live = await mixedDisk(folder.path, 64 * MIB);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copies = Array.from({ length: 4 }, (_, i) =>
      copyOf(folder.path, server.socketPath, 64 * MIB, {
        name: `${i}.qcow2`,
        compression: i % 2 === 0 ? 'none' : 'zstd',
      }),
    );
    const results = await Promise.all(copies.map((copy) => pool.copyDisk({ ...copy, signal })));
    for (const [i, copy] of copies.entries()) {
      await expectSound(copy.path, results[i]!);
      await expectSameDisk(live, copy.path);
    }
  });

  it('work with a server that takes one connection at a time', async () => {
    await using folder = await tempDir();
    const live = await mixedDisk(folder.path, 64 * MIB);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live], { shared: 1 });
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB);
    await expectSound(copy.path, await pool.copyDisk({ ...copy, signal }));
    await expectSameDisk(live, copy.path);
  });
});

describe('a sparse disk of 4 TiB', () => {
  it('is copied by what it holds', async () => {
    await using folder = await tempDir();
    const live = join(folder.path, 'live.qcow2');
    const sizeBytes = 4096 * GIB;
    await makeDisk(live, sizeBytes, ['write -P 1 0 1M', 'write -P 2 2500G 1M', `write -P 3 ${sizeBytes - MIB} 1M`]);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, sizeBytes);
    const result = await pool.copyDisk({ ...copy, signal });
    expect(result).toMatchObject({ changedBytes: 3 * MIB, readBytes: 3 * MIB });
    expect(result.storedBytes).toBeLessThan(6 * MIB);
    await expectSound(copy.path, result);
    expect(readFileSync(copy.path).length).toBe(result.storedBytes);
    await expectSameDisk(live, copy.path);
  });
});
