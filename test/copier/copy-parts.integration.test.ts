import { generateIdentity, identityToRecipient } from 'age-encryption';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { createCopierPool } from '../../copier/pool.ts';
import { CHUNK_BYTES } from '../../repository/age-file.ts';
import { startQemuNbd } from '../nbd/real-nbd-server.ts';
import { FakePartSink } from '../support/fake-part-sink.ts';
import { run } from '../support/run.ts';
import { tempDir } from '../support/temp.ts';
import { change, copyOf, expectSameDisk, expectSound, KIB, makeDisk, MIB, noiseFile } from './copy-fixture.ts';

const pool = createCopierPool();
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();
const SIZE = 96 * MIB + 512;
const identity = await generateIdentity();
const recipient = await identityToRecipient(identity);

async function mixedDisk(folder: string): Promise<string> {
  const live = join(folder, 'live.qcow2');
  const noise = noiseFile(folder, 16 * MIB);
  await makeDisk(live, SIZE, [
    `write -s ${noise} 1M 16M`,
    'write -P 97 20M 20M',
    'write -P 0 42M 6M',
    `write -s ${noise} 50M 11M`,
    `write -s ${noise} 70M 300k`,
    ...Array.from({ length: 12 }, (_, i) => `write -P ${i + 1} ${72 + i}M 5k`),
    `write -P 99 ${SIZE - 10 * KIB} 10k`,
  ]);
  return live;
}

/** As anybody would who has the key. */
async function decrypt(folder: string, sealed: string, plain: string): Promise<void> {
  const key = join(folder, 'key.txt');
  writeFileSync(key, identity);
  await run('age', ['-d', '-i', key, '-o', plain, sealed]);
}

describe.each([
  ['none', undefined],
  ['zstd', undefined],
  ['none', recipient],
  ['zstd', recipient],
] as const)('a copy in parts (%s, recipient %s)', (compression, sealed) => {
  it('is the disk, also after it was cut off and taken up again', async () => {
    await using folder = await tempDir();
    const live = await mixedDisk(folder.path);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const sink = new FakePartSink();
    const copy = { ...copyOf(folder.path, server.socketPath, SIZE, { compression }), sink, recipient: sealed };
    sink.beforeStored = (number) => (number === 4 ? Promise.reject(new Error('503 Slow Down')) : Promise.resolve());
    await expect(pool.copyDisk({ ...copy, signal })).rejects.toThrow('503 Slow Down');
    sink.beforeStored = () => Promise.resolve();
    const result = await pool.copyDisk({ ...copy, signal });
    expect(result.resumedSegments).toBeGreaterThan(0);
    for (const { number, bytes } of sink.asked) expect(bytes.equals(sink.parts.get(number)!)).toBe(true);
    writeFileSync(copy.path, sink.object(result.storedBytes));
    await expectStored(folder.path, copy.path, result, sealed !== undefined);
    await expectSameDisk(live, join(folder.path, 'plain.qcow2'));
    const again = await pool.copyDisk({ ...copy, signal });
    expect(again).toEqual({ ...result, resumedSegments: again.resumedSegments });
  });
});

async function expectStored(
  folder: string,
  path: string,
  result: Parameters<typeof expectSound>[1],
  isSealed: boolean,
): Promise<void> {
  const plain = join(folder, 'plain.qcow2');
  if (isSealed) {
    await decrypt(folder, path, plain);
    expect(statSync(plain).size % CHUNK_BYTES).toBe(0);
    const marker = Buffer.alloc(4096, 97);
    expect(readFileSync(path).includes(marker)).toBe(false);
  } else {
    writeFileSync(plain, readFileSync(path));
  }
  await expectSound(path, result, plain);
}

describe.each(['none', 'zstd'] as const)('an encrypted copy in a directory, %s', (compression) => {
  it('is what its recipient decrypts, byte for byte, also after it was cut off', async () => {
    await using folder = await tempDir();
    const live = await mixedDisk(folder.path);
    await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
    const copy = copyOf(folder.path, server.socketPath, SIZE, { compression, recipient, name: 'full.qcow2.age' });
    const stop = new AbortController();
    await expect(
      pool.copyDisk({ ...copy, signal: stop.signal, onProgress: () => stop.abort(new Error('cut off')) }),
    ).rejects.toThrow('cut off');
    const before = readFileSync(copy.path);
    expect(before.length).toBeGreaterThan(0);
    const result = await pool.copyDisk({ ...copy, signal });
    const after = readFileSync(copy.path);
    // What had been written is still there: no chunk is sealed over other bytes.
    let others = 0;
    for (const [at, byte] of before.entries()) if (byte !== 0 && byte !== after[at]) others += 1;
    expect(others).toBe(0);
    await expectStored(folder.path, copy.path, result, true);
    await expectSameDisk(live, join(folder.path, 'plain.qcow2'));
    expect(statSync(copy.journalPath).mode & 0o777).toBe(0o600);
  });
});

describe('an encrypted increment', () => {
  it('makes the chain the live disk again', async () => {
    await using folder = await tempDir();
    const live = await mixedDisk(folder.path);
    {
      await using server = await startQemuNbd(folder.path, ['-f', 'qcow2', live]);
      await pool.copyDisk({ ...copyOf(folder.path, server.socketPath, SIZE), signal });
    }
    await run('qemu-img', ['bitmap', '--add', live, 'b']);
    await change(live, ['write -P 7 2M 300k', 'write -P 0 9M 100k', 'write -z -u 1M 64k', 'discard 4M 1M']);
    await using server = await startQemuNbd(folder.path, ['-B', 'b', '-f', 'qcow2', live]);
    const sink = new FakePartSink({ minPartBytes: 5 * MIB });
    const copy = copyOf(folder.path, server.socketPath, SIZE, {
      name: 'incr.qcow2.age',
      mapContext: 'qemu:dirty-bitmap:b',
      backingFileName: 'full.qcow2',
      compression: 'zstd',
      recipient,
      sink,
    });
    const result = await pool.copyDisk({ ...copy, signal });
    expect([...sink.parts.keys()]).toEqual([1]);
    writeFileSync(copy.path, sink.object(result.storedBytes));
    await decrypt(folder.path, copy.path, join(folder.path, 'incr.qcow2'));
    await expectSameDisk(live, join(folder.path, 'incr.qcow2'));
  });
});
