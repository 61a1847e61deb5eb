import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Decrypter } from 'age-encryption';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sealedForm } from '../../copier/file-form.ts';
import { recryptFile } from '../../copier/recrypt-file.ts';
import { cutAnew } from '../../copier/recrypt-stretches.ts';
import { ThreadPool } from '../../copier/thread-pool.ts';
import { verifyFile } from '../../copier/verify-file.ts';
import { AGE_HEAD_BYTES } from '../../repository/age-file.ts';
import { encryptChain, newKeyPair, type KeyPair } from '../support/encrypted-chain.ts';
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
  const folder = await tempDir('hf-recrypt');
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

describe('recryptFile', () => {
  /** Cuts of the encrypted source in chunks; an odd number so that no border is that of a new segment. */
  const FOREIGN = [37, 64, 5];

  async function encrypted(lengthBytes: number) {
    const one = await stored(lengthBytes, [4 * MIB]);
    const other = await newKeyPair();
    const [file] = await encryptChain([one.file], other.recipient, FOREIGN);
    return { ...one, file: file!, path: `${one.path}.age` };
  }

  it.each([
    ['a byte', 1],
    ['whole chunks', 4 * MIB],
    ['a chunk that is not whole', 5 * MIB + 777],
  ])('encrypts %s of an encrypted file for another key', async (_, lengthBytes) => {
    await using one = await encrypted(lengthBytes);
    const { file, sink } = one;
    const result = await recryptFile(pool, { file, sink, recipient: keys.recipient, signal });
    const sealed = await readFile(one.to);
    expect([sealed.length, result.plainBytes]).toEqual([result.storedBytes, lengthBytes]);
    expect((await opened(sealed)).equals(one.content)).toBe(true);
    await verifyFile(pool, { source: sink, ...result }, { signal });
  });

  it('decrypts a file where there is no recipient, also in parts', async () => {
    await using one = await encrypted(11 * MIB + 5);
    const { file, sink } = one;
    const result = await recryptFile(pool, { file, sink, signal });
    expect((await readFile(one.to)).equals(one.content)).toBe(true);
    expect(result).toMatchObject({ storedBytes: one.content.length, plainBytes: one.content.length });
    await verifyFile(pool, { source: sink, ...result }, { signal });
    const parts = new FakePartSink({ minPartBytes: 5 * MIB });
    expect(await recryptFile(pool, { file, sink: parts, signal })).toEqual(result);
    const uploaded = [...parts.parts].toSorted(([a], [b]) => a - b).map(([, bytes]) => bytes);
    expect(Buffer.concat(uploaded).equals(one.content)).toBe(true);
  });

  it('writes nothing with a key that is not that of the file', async () => {
    await using one = await encrypted(MIB);
    const file = { ...one.file, encryption: { ...one.file.encryption!, payloadKey: randomBytes(32) } };
    const writing = recryptFile(pool, { file, sink: one.sink, recipient: keys.recipient, signal });
    await expect(writing).rejects.toMatchObject({ code: 'integrity' });
    expect(await readFile(one.to)).toHaveLength(0);
  });

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
    const result = await recryptFile(pool, { file, sink, recipient: keys.recipient, signal, onProgress });
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
    const { storedBytes } = await recryptFile(pool, { file: one.file, sink, recipient: keys.recipient, signal });
    const parts = [...sink.parts].toSorted(([a], [b]) => a - b).map(([, bytes]) => bytes);
    const sealed = Buffer.concat(parts);
    expect(parts.length).toBeGreaterThan(1);
    expect(sealed.length).toBe(storedBytes);
    expect((await opened(sealed)).equals(one.content)).toBe(true);
  });

  it('takes a new key each time', async () => {
    await using one = await stored(MIB, [MIB]);
    const { file, sink } = one;
    await recryptFile(pool, { file, sink, recipient: keys.recipient, signal });
    const first = await readFile(one.to);
    await recryptFile(pool, { file, sink, recipient: keys.recipient, signal });
    const again = await readFile(one.to);
    expect(again.length).toBe(first.length);
    expect(again.subarray(-MIB).equals(first.subarray(-MIB))).toBe(false);
  });

  it('stops at a segment that was altered', async () => {
    await using one = await stored(9 * MIB, [MIB + 4096]);
    one.content[5 * MIB]! ^= 1;
    await writeFile(one.path, one.content);
    const { file, sink } = one;
    await expect(recryptFile(pool, { file, sink, recipient: keys.recipient, signal })).rejects.toMatchObject({
      code: 'integrity',
      file: 'vm/from',
    });
  });
});

describe('cutAnew', () => {
  const sealed = sealedForm({ head: Buffer.alloc(AGE_HEAD_BYTES), payloadKey: Buffer.alloc(32) });
  const file = (...lengths: number[]) => {
    let end = 0;
    const segments = lengths.map((lengthBytes) => ({
      offset: (end += lengthBytes) - lengthBytes,
      lengthBytes,
      sha256: '',
    }));
    return { segments, storedBytes: end };
  };

  it('ends where segments end, so that nothing is read twice that ends with a chunk', () => {
    const cut = cutAnew(file(3 * MIB, 3 * MIB, 3 * MIB), sealed);
    expect(cut.map(({ plainOffset, from }) => [plainOffset, from.length])).toEqual([
      [0, 1],
      [3 * MIB, 1],
      [6 * MIB, 1],
    ]);
  });

  it('follows on without gap, at chunks, and in the lengths that the format has', () => {
    const plain = file(64 * KIB, 4096, 2_121_728, 1_400_832, 12_288, 4 * MIB, 4 * MIB + 8192, 10 * MIB, 999);
    const cut = cutAnew(plain, sealed);
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
    expect(plainEnd).toBe(plain.storedBytes);
    expect(cut.filter(({ isEnd }) => isEnd)).toEqual([cut.at(-1)]);
  });
});
