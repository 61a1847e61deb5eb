import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Decrypter } from 'age-encryption';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cutSealed } from '../../copier/seal-stretches.ts';
import { sealFile } from '../../copier/seal-file.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { verifyFile } from '../../copier/verify-file.ts';
import { newKeyPair, type KeyPair } from '../support/encrypted-chain.ts';
import { FakePartSink } from '../support/fake-part-sink.ts';
import { describeStored } from '../support/stored-chain.ts';
import { tempDir } from '../support/temp.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const pool = new ThreadPool({ threads: 2 });
afterAll(() => pool[Symbol.asyncDispose]());
const { signal } = new AbortController();
let keys: KeyPair;
beforeAll(async () => {
  keys = await newKeyPair();
});

/** As age(1) opens it. */
async function opened(sealed: Buffer): Promise<Buffer> {
  const decrypter = new Decrypter();
  decrypter.addIdentity(keys.identity);
  return Buffer.from(await decrypter.decrypt(sealed));
}

async function stored(lengthBytes: number, cuts: number[]) {
  const folder = await tempDir('hf-seal');
  const path = join(folder.path, 'from');
  const content = randomBytes(lengthBytes);
  await writeFile(path, content);
  const to = join(folder.path, 'to');
  await writeFile(to, '');
  return {
    content,
    path,
    to,
    file: await describeStored(path, 'vm/from', cuts),
    sink: { kind: 'file' as const, path: to, blobKey: 'vm/from.age' },
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}

describe('sealFile', () => {
  it.each([
    ['a byte', 1, [4 * MIB]],
    ['whole chunks', 8 * MIB, [4 * MIB]],
    ['segments that end within chunks, as compression makes them', 13 * MIB + 777, [1_400_832, 4096, 2_121_728]],
    ['segments longer than its own', 21 * MIB + 4096, [10 * MIB + 4096]],
  ])('writes an age file of %s, with sums of its own', async (_, lengthBytes, cuts) => {
    await using one = await stored(lengthBytes, cuts);
    const { file, sink } = one;
    const seen: number[] = [];
    const onProgress = (bytes: number) => void seen.push(bytes);
    const result = await sealFile(pool, { file, sink, recipient: keys.recipient, signal, onProgress });
    const sealed = await readFile(one.to);
    expect(sealed.length).toBe(result.storedBytes);
    expect(result.plainBytes).toBe(lengthBytes);
    expect((await opened(sealed)).equals(one.content)).toBe(true);
    expect(seen.at(-1)).toBe(sealed.length);
    const encryption = { payloadKey: randomBytes(32), plainBytes: lengthBytes }; // sums are compared without the key
    await verifyFile(pool, { source: sink, ...result, encryption }, { signal });
  });

  it('uploads it in parts', async () => {
    await using one = await stored(20 * MIB + 5, [3 * MIB + 4096]);
    const sink = new FakePartSink({ minPartBytes: 5 * MIB });
    const { storedBytes } = await sealFile(pool, { file: one.file, sink, recipient: keys.recipient, signal });
    const parts = [...sink.parts].toSorted(([a], [b]) => a - b).map(([, bytes]) => bytes);
    const sealed = Buffer.concat(parts);
    expect(parts.length).toBeGreaterThan(1);
    expect(sealed.length).toBe(storedBytes);
    expect((await opened(sealed)).equals(one.content)).toBe(true);
  });

  it('takes a new key each time', async () => {
    await using one = await stored(MIB, [MIB]);
    const { file, sink } = one;
    await sealFile(pool, { file, sink, recipient: keys.recipient, signal });
    const first = await readFile(one.to);
    await sealFile(pool, { file, sink, recipient: keys.recipient, signal });
    const again = await readFile(one.to);
    expect(again.length).toBe(first.length);
    expect(again.subarray(-MIB).equals(first.subarray(-MIB))).toBe(false);
  });

  it('stops at a segment that was altered', async () => {
    await using one = await stored(9 * MIB, [MIB + 4096]);
    one.content[5 * MIB]! ^= 1;
    await writeFile(one.path, one.content);
    const { file, sink } = one;
    await expect(sealFile(pool, { file, sink, recipient: keys.recipient, signal })).rejects.toMatchObject({
      code: 'integrity',
      file: 'vm/from',
    });
  });
});

describe('cutSealed', () => {
  const segments = (...lengths: number[]) => {
    let end = 0;
    return lengths.map((lengthBytes) => ({ offset: (end += lengthBytes) - lengthBytes, lengthBytes, sha256: '' }));
  };

  it('ends where segments end, so that nothing is read twice that ends with a chunk', () => {
    const cut = cutSealed(segments(3 * MIB, 3 * MIB, 3 * MIB));
    expect(cut.map(({ plainOffset, from }) => [plainOffset, from.length])).toEqual([
      [0, 1],
      [3 * MIB, 1],
      [6 * MIB, 1],
    ]);
  });

  it('follows on without gap, at chunks, and in the lengths that the format has', () => {
    const plain = segments(64 * KIB, 4096, 2_121_728, 1_400_832, 12_288, 4 * MIB, 4 * MIB + 8192, 10 * MIB, 999);
    const cut = cutSealed(plain);
    let [plainEnd, end] = [0, 0];
    for (const { offset, lengthBytes, plainOffset, plainBytes, from } of cut) {
      expect([plainOffset, offset]).toEqual([plainEnd, end]);
      expect(plainOffset % (64 * KIB)).toBe(0);
      expect(lengthBytes).toBeLessThan(5 * MIB);
      plainEnd += plainBytes;
      end += lengthBytes;
      expect(from[0]!.offset).toBeLessThanOrEqual(plainOffset);
      const last = from.at(-1)!;
      expect(last.offset).toBeLessThan(plainEnd);
      expect(last.offset + last.lengthBytes).toBeGreaterThanOrEqual(plainEnd);
    }
    expect(plainEnd).toBe(plain.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0));
    expect(cut.filter(({ isEnd }) => isEnd)).toEqual([cut.at(-1)]);
  });
});
