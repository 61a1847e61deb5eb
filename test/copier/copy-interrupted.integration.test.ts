import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import type { CopyResult } from '../../copier/contract.ts';
import { createCopierPool } from '../../copier/pool.ts';
import { dataChunk, errorChunk, FakeNbdServer, type FakeNbdOptions } from '../nbd/fake-nbd-server.ts';
import { CMD_READ } from '../../nbd/protocol.ts';
import { startQemuNbd } from '../nbd/real-nbd-server.ts';
import { until } from '../support/processes.ts';
import { run } from '../support/run.ts';
import { tempDir } from '../support/temp.ts';
import {
  change,
  copyOf,
  expectSameDisk,
  expectSound,
  GIB,
  makeDisk,
  MIB,
  noiseFile,
  type CopyRequest,
} from './copy-fixture.ts';

const pool = createCopierPool();
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();
/** Two threads with two tasks each. */
const OPEN_SEGMENTS = 4;

const program = new URL('./copy-program.ts', import.meta.url).pathname;
const startProgram = (options: CopyRequest | CopyRequest[]) =>
  spawn(process.execPath, [program, JSON.stringify(options)], { stdio: ['ignore', 'pipe', 'inherit'] });

async function runProgram(options: CopyRequest | CopyRequest[]): Promise<{ results: CopyResult[]; peakBytes: number }> {
  const { stdout } = await run(process.execPath, [program, JSON.stringify(options)]);
  return JSON.parse(stdout.toString()) as { results: CopyResult[]; peakBytes: number };
}

async function liveDisk(folder: string, sizeBytes = 256 * MIB): Promise<string> {
  const live = join(folder, 'live.qcow2');
  const noise = noiseFile(folder, 32 * MIB);
  await makeDisk(live, sizeBytes, [
    `write -s ${noise} 0 32M`,
    'write -P 97 40M 64M',
    `write -s ${noise} 128M 32M`,
    'write -P 98 200M 32M',
  ]);
  return live;
}

describe('a copy that is killed', () => {
  it.each([
    ['none', 1],
    ['zstd', 2],
    ['none', 3],
    ['zstd', 4],
  ] as const)('goes on behind what is stored, however often (%s, %i)', async (compression, seed) => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, 256 * MIB, { compression });
    let kills = 0;
    for (let attempt = 0; attempt < 4; attempt++) {
      const sizeBefore = existsSync(copy.journalPath) ? statSync(copy.journalPath).size : 0;
      const child = startProgram(copy);
      const exit = once(child, 'exit');
      await until(
        'it has stored something new',
        () =>
          child.exitCode !== null ||
          (existsSync(copy.journalPath) && statSync(copy.journalPath).size > sizeBefore + 400 * seed),
        { everyMs: 2 },
      );
      await delay(((seed * 37 + attempt * 53) % 60) / 2);
      child.kill('SIGKILL');
      await exit;
      if (child.exitCode === 0) break;
      kills++;
      if (attempt % 2 === 1) writeFileSync(copy.journalPath, 'torn', { flag: 'a' });
    }
    const result = await pool.copyDisk({ ...copy, signal });
    expect(kills).toBeGreaterThan(0);
    expect(result.resumedSegments).toBeGreaterThan(0);
    expect(result.readBytes).toBeGreaterThanOrEqual(result.changedBytes);
    expect(result.readBytes).toBeLessThanOrEqual(result.changedBytes + kills * OPEN_SEGMENTS * 4 * MIB);
    await expectSound(copy.path, result);
    await expectSameDisk(live, copy.path);
  });

  it('as an incremental goes on as well', async () => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    {
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      await pool.copyDisk({ ...copyOf(folder.path, server.socketPath, 256 * MIB), signal });
    }
    await run('qemu-img', ['bitmap', '--add', live, 'b']);
    await change(live, [
      `write -s ${noiseFile(folder.path, 64 * MIB, 2)} 10M 64M`,
      'write -z 100M 10M',
      'write -P 3 150M 64M',
    ]);
    await using server = await startQemuNbd(folder.path, ['-B', 'b', '-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, 256 * MIB, {
      name: 'incr.qcow2',
      mapContext: 'qemu:dirty-bitmap:b',
      backingFileName: 'full.qcow2',
      compression: 'zstd',
    });
    const child = startProgram(copy);
    const exit = once(child, 'exit');
    await until(
      'some segments are stored',
      () => existsSync(copy.journalPath) && statSync(copy.journalPath).size > 1500,
      { everyMs: 2 },
    );
    child.kill('SIGKILL');
    await exit;
    const result = await pool.copyDisk({ ...copy, signal });
    expect(result.resumedSegments).toBeGreaterThan(0);
    await expectSound(copy.path, result);
    await expectSameDisk(live, copy.path);
  });
});

describe('a copy that is repeated', () => {
  it('returns the same result and touches nothing', async () => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, 256 * MIB);
    const first = await pool.copyDisk({ ...copy, signal });
    const { mtimeMs } = statSync(copy.path);
    const second = await pool.copyDisk({
      ...copy,
      signal,
      onPlanned: () => Promise.reject(new Error('nothing is left to plan')),
    });
    expect(second).toEqual({ ...first, resumedSegments: second.resumedSegments });
    expect(second.resumedSegments).toBeGreaterThan(0);
    expect(statSync(copy.path).mtimeMs).toBe(mtimeMs);
  });

  it.each<[string, (copy: CopyRequest & { path: string }) => void]>([
    [
      'was made anew',
      ({ path }) => {
        rmSync(path);
        writeFileSync(path, '');
      },
    ],
    ['was overwritten', ({ path }) => writeFileSync(path, Buffer.alloc(300 * MIB), { flag: 'r+' })],
    ['was cut short', ({ path }) => writeFileSync(path, '')],
  ])('notices that the file %s under the journal', async (_, spoil) => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, 256 * MIB);
    await pool.copyDisk({ ...copy, signal });
    spoil(copy);
    await expect(pool.copyDisk({ ...copy, signal })).rejects.toMatchObject({
      name: 'CopierError',
      code: 'journal-mismatch',
    });
  });

  it('refuses a journal of another change map', async () => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    const copy = await (async () => {
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      const made = copyOf(folder.path, server.socketPath, 256 * MIB);
      await pool.copyDisk({ ...made, signal });
      return made;
    })();
    await change(live, ['write -P 1 120M 1M']);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const source = { ...copy.source, socketPath: server.socketPath };
    await expect(pool.copyDisk({ ...copy, source, signal })).rejects.toMatchObject({
      code: 'journal-mismatch',
      file: copy.journalPath,
    });
  });
});

describe('a copy that is aborted', () => {
  it('stops within a second, leaves nothing in flight, and goes on later', async () => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, 256 * MIB, { compression: 'zstd' });
    const controller = new AbortController();
    let abortedMs = 0;
    const outcome = pool.copyDisk({
      ...copy,
      signal: controller.signal,
      onProgress: () => {
        abortedMs ||= performance.now();
        controller.abort(new Error('cancelled by the user'));
      },
    });
    await expect(outcome).rejects.toThrow('cancelled by the user');
    expect(performance.now() - abortedMs).toBeLessThan(1000);
    const before = readFileSync(copy.path);
    await delay(100);
    expect(readFileSync(copy.path).equals(before)).toBe(true);
    const result = await pool.copyDisk({ ...copy, signal });
    expect(result.resumedSegments).toBeGreaterThan(0);
    await expectSound(copy.path, result);
    await expectSameDisk(live, copy.path);
  });

  it('stops though the server hangs', async () => {
    await using folder = await tempDir();
    const onRequest: FakeNbdOptions['onRequest'] = ({ type }) => (type === CMD_READ ? Buffer.alloc(0) : undefined);
    await using server = await FakeNbdServer.start({ sizeBytes: 64 * MIB, onRequest });
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB);
    const controller = new AbortController();
    const outcome = pool.copyDisk({ ...copy, signal: controller.signal }).catch((error: unknown) => error);
    await until('reads are under way', () => server.requests.length > 2);
    controller.abort(new Error('time limit'));
    expect(await outcome).toMatchObject({ message: 'time limit' });
  });

  it('does not start when it is aborted before, nor when the plan is refused', async () => {
    await using folder = await tempDir();
    await using server = await FakeNbdServer.start({ sizeBytes: 64 * MIB });
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB);
    await expect(pool.copyDisk({ ...copy, signal: AbortSignal.abort(new Error('before')) })).rejects.toThrow('before');
    const onPlanned = () => Promise.reject(new Error('no space for it'));
    await expect(pool.copyDisk({ ...copy, signal, onPlanned })).rejects.toThrow('no space for it');
    expect(statSync(copy.path).size).toBe(0);
    expect(server.requests.filter(({ type }) => type === CMD_READ)).toEqual([]);
  });
});

describe('a copy whose export fails', () => {
  it('is lost when the server is killed', async () => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, 256 * MIB, { compression: 'zstd' });
    const outcome = pool.copyDisk({ ...copy, signal }).catch((error: unknown) => error);
    await until(
      'some segments are stored',
      () => existsSync(copy.journalPath) && statSync(copy.journalPath).size > 1000,
      { everyMs: 2 },
    );
    await server.kill();
    expect(await outcome).toMatchObject({ name: 'CopierError', code: 'job-lost' });
    await expect(pool.copyDisk({ ...copy, signal })).rejects.toMatchObject({ name: 'CopierError', code: 'job-lost' });
  });

  it('goes on over a new connection when one is cut', async () => {
    await using folder = await tempDir();
    let cuts = 0;
    await using server = await FakeNbdServer.start({
      sizeBytes: 64 * MIB,
      onRequest: ({ type }, socket) => {
        if (type === CMD_READ && cuts === 0) {
          cuts++;
          socket.destroy();
        }
        return undefined;
      },
    });
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB);
    const result = await pool.copyDisk({ ...copy, signal });
    expect(cuts).toBe(1);
    expect(server.connections).toBeGreaterThanOrEqual(4);
    await expectSound(copy.path, result);
  });

  it.each([
    ['ESHUTDOWN', 108, { name: 'CopierError', code: 'job-lost' }],
    ['EIO', 5, { name: 'NbdError', code: 'EIO' }],
  ])('on %s of the server', async (_, errno, expected) => {
    await using folder = await tempDir();
    await using server = await FakeNbdServer.start({
      sizeBytes: 64 * MIB,
      onRequest: (request) =>
        request.type === CMD_READ && request.offset >= 32 * MIB ? errorChunk(request, errno) : undefined,
    });
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB);
    await expect(pool.copyDisk({ ...copy, signal })).rejects.toMatchObject(expected);
  });

  it('refuses an export of another size, and one without the bitmap', async () => {
    await using folder = await tempDir();
    await using server = await FakeNbdServer.start({ sizeBytes: 64 * MIB });
    await expect(pool.copyDisk({ ...copyOf(folder.path, server.socketPath, 65 * MIB), signal })).rejects.toMatchObject({
      code: 'job-lost',
    });
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB, {
      mapContext: 'qemu:dirty-bitmap:b',
      backingFileName: 'full.qcow2',
    });
    await expect(pool.copyDisk({ ...copy, signal })).rejects.toMatchObject({ code: 'job-lost' });
  });

  it('is not fooled by a server that breaks the protocol', async () => {
    await using folder = await tempDir();
    await using server = await FakeNbdServer.start({
      sizeBytes: 64 * MIB,
      onRequest: (request) =>
        request.type === CMD_READ
          ? dataChunk(request, request.offset + 1, Buffer.alloc(request.lengthBytes))
          : undefined,
    });
    await expect(pool.copyDisk({ ...copyOf(folder.path, server.socketPath, 64 * MIB), signal })).rejects.toMatchObject({
      name: 'NbdProtocolError',
    });
  });
});

describe('a copy whose repository fails', () => {
  it('reports a device that is full', async () => {
    await using folder = await tempDir();
    await using server = await FakeNbdServer.start({ sizeBytes: 64 * MIB });
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB);
    const sink = { kind: 'file', path: '/dev/full', blobKey: 'vm/full.qcow2' } as const;
    await expect(pool.copyDisk({ ...copy, sink, signal })).rejects.toMatchObject({
      name: 'BlobStoreError',
      code: 'full',
      key: 'vm/full.qcow2',
    });
  });

  it.skipIf(process.getuid?.() !== 0)('reports a file system that fills up (needs root to mount one)', async () => {
    await using folder = await tempDir();
    const small = join(folder.path, 'small');
    await run('mkdir', [small]);
    await run('mount', ['-t', 'tmpfs', '-o', 'size=40m', 'tmpfs', small]);
    try {
      const live = await liveDisk(folder.path);
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      const copy = copyOf(small, server.socketPath, 256 * MIB);
      await expect(pool.copyDisk({ ...copy, signal })).rejects.toMatchObject({ name: 'BlobStoreError', code: 'full' });
      await run('mount', ['-o', 'remount,size=300m', small]);
      const result = await pool.copyDisk({ ...copy, signal });
      expect(result.resumedSegments).toBeGreaterThan(0);
      await expectSound(copy.path, result);
      await expectSameDisk(live, copy.path);
    } finally {
      await run('umount', [small]);
    }
  });

  it('reports a file that is gone', async () => {
    await using folder = await tempDir();
    await using server = await FakeNbdServer.start({ sizeBytes: 64 * MIB });
    const copy = copyOf(folder.path, server.socketPath, 64 * MIB);
    rmSync(copy.path);
    await expect(pool.copyDisk({ ...copy, signal })).rejects.toMatchObject({
      name: 'BlobStoreError',
      code: 'unavailable',
    });
  });
});

describe('the memory of a worker', () => {
  it('does not grow with the size of the disk', async () => {
    await using folder = await tempDir();
    const peaks: number[] = [];
    for (const sizeBytes of [20 * GIB, 2048 * GIB]) {
      const live = join(folder.path, `${sizeBytes}.qcow2`);
      const spots = Array.from(
        { length: 8 },
        (_, i) => `write -P ${i + 1} ${Math.floor((sizeBytes / 8 / MIB) * i)}M 16M`,
      );
      await makeDisk(live, sizeBytes, spots);
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      const { results, peakBytes } = await runProgram(
        copyOf(folder.path, server.socketPath, sizeBytes, { name: `copy-${sizeBytes}.qcow2` }),
      );
      expect(results[0]!.changedBytes).toBe(128 * MIB);
      peaks.push(peakBytes);
    }
    expect(peaks[1]! - peaks[0]!).toBeLessThan(24 * MIB);
  });

  it('stays small while four disks are copied', async () => {
    await using folder = await tempDir();
    const live = await liveDisk(folder.path);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copies = Array.from({ length: 4 }, (_, i) =>
      copyOf(folder.path, server.socketPath, 256 * MIB, { name: `${i}.qcow2`, compression: 'zstd' }),
    );
    const { peakBytes } = await runProgram(copies);
    expect(peakBytes).toBeLessThan(220 * MIB);
  });
});
