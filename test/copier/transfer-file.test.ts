import { randomBytes } from 'node:crypto';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { transferFile } from '../../copier/transfer-file.ts';
import type { PartSink } from '../../repository/blob-store.ts';
import { describeStored } from '../support/stored-chain.ts';
import { tempDir } from '../support/temp.ts';

const MIB = 1024 * 1024;
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();

async function stored(lengthBytes: number) {
  const folder = await tempDir('hf-copy');
  const path = join(folder.path, 'from');
  const content = randomBytes(lengthBytes);
  await writeFile(path, content);
  const to = join(folder.path, 'to');
  await writeFile(to, '');
  const file = await describeStored(path, 'vm/from', [4 * MIB, 1 * MIB, 4 * MIB + 65_536]);
  return {
    content,
    path,
    to,
    file,
    sink: { kind: 'file' as const, path: to, blobKey: 'vm/to' },
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}

function bucket() {
  const parts = new Map<number, Buffer>();
  const stored: number[] = [];
  const sink: PartSink = {
    kind: 'parts',
    blobKey: 'vm/to',
    identity: 'upload-1',
    minPartBytes: 5 * MIB,
    maxPartBytes: 1024 * MIB,
    maxParts: 10_000,
    putPart: (number, bytes) => {
      parts.set(number, Buffer.from(bytes));
      stored.push(number);
      return Promise.resolve();
    },
    storedParts: () => Promise.resolve(new Map([...parts].map(([number, bytes]) => [number, bytes.length]))),
  };
  const content = (): Buffer => Buffer.concat([...parts].toSorted(([a], [b]) => a - b).map(([, bytes]) => bytes));
  return { sink, parts, stored, content };
}

describe('transferFile', () => {
  it('writes a file as it is, and tells how much', async () => {
    await using one = await stored(21 * MIB + 777);
    const seen: number[] = [];
    const { file, sink } = one;
    const onProgress = (bytes: number) => void seen.push(bytes);
    const result = await transferFile(pool, { file, sink, resumed: false, signal, onProgress });
    expect(result.writtenBytes).toBe(one.content.length);
    expect((await readFile(one.to)).equals(one.content)).toBe(true);
    expect(seen.at(-1)).toBe(one.content.length);
  });

  it('writes again only what an earlier attempt did not, or not rightly', async () => {
    await using one = await stored(20 * MIB);
    const { file, sink } = one;
    await writeFile(one.to, one.content);
    const damaged = await readFile(one.to);
    damaged[6 * MIB]! ^= 1;
    await writeFile(one.to, damaged);
    await truncate(one.to, 19 * MIB);
    const { writtenBytes } = await transferFile(pool, { file, sink, resumed: true, signal });
    expect((await readFile(one.to)).equals(one.content)).toBe(true);
    expect(writtenBytes).toBeLessThan(10 * MIB);
    expect(writtenBytes).toBeGreaterThan(0);
  });

  it('stops at a segment that was altered', async () => {
    await using one = await stored(20 * MIB);
    one.content[9 * MIB]! ^= 1;
    await writeFile(one.path, one.content);
    const { file, sink } = one;
    await expect(transferFile(pool, { file, sink, resumed: false, signal })).rejects.toMatchObject({
      code: 'integrity',
    });
  });

  it('uploads parts of whole segments, and in a second attempt those that are missing', async () => {
    await using one = await stored(40 * MIB + 5);
    const { file } = one;
    const { sink, parts, stored: numbers, content } = bucket();
    await transferFile(pool, { file, sink, resumed: false, signal });
    expect(content().equals(one.content)).toBe(true);
    const all = numbers.length;
    parts.delete(2);
    await transferFile(pool, { file, sink, resumed: true, signal });
    expect(numbers.slice(all)).toEqual([2]);
    expect(content().equals(one.content)).toBe(true);
  });

  it('ends with the reason when it is stopped', async () => {
    await using one = await stored(20 * MIB);
    const stop = new AbortController();
    const { file, sink } = one;
    const onProgress = () => stop.abort(new Error('enough'));
    await expect(transferFile(pool, { file, sink, resumed: false, signal: stop.signal, onProgress })).rejects.toThrow(
      'enough',
    );
  });
});
