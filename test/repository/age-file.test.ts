import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  AGE_HEAD_BYTES,
  AgeError,
  CHUNK_BYTES,
  openChunks,
  plainLength,
  sealChunks,
  sealedLength,
  storedLength,
  storedOffset,
  TAG_BYTES,
} from '../../repository/age-file.ts';
import { createAgeHead, openAgeHead } from '../../repository/age-head.ts';

const BORDERS = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 17];

describe('an age file', () => {
  let folder: string;
  let identity: string;
  let recipient: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'holdfast-age-'));
    identity = await generateX25519Identity();
    recipient = await identityToRecipient(identity);
    await writeFile(join(folder, 'identity'), `${identity}\n`);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const age = (args: string[], input: Uint8Array): Buffer =>
    execFileSync('age', args, { cwd: folder, input, stdio: 'pipe', maxBuffer: 64 * CHUNK_BYTES });
  const decryptWithAge = (file: Uint8Array): Buffer => age(['-d', '-i', 'identity'], file);

  /** Sealed chunk by chunk, the last one first, as threads may. */
  async function sealed(plain: Buffer): Promise<{ file: Buffer; payloadKey: Buffer }> {
    const { head, payloadKey } = await createAgeHead(recipient);
    const file = Buffer.alloc(storedLength(plain.length));
    head.copy(file);
    for (const start of chunkStarts(plain.length).toReversed()) {
      const place = { plainOffset: start, isEnd: start + CHUNK_BYTES >= plain.length };
      sealChunks(
        payloadKey,
        plain.subarray(start, start + CHUNK_BYTES),
        place,
        file.subarray(storedOffset(start), storedOffset(start) + STORED_CHUNK),
      );
    }
    return { file, payloadKey };
  }

  it.each(BORDERS)('of %i bytes is opened by the program age', async (plainBytes) => {
    const plain = randomBytes(plainBytes);
    const { file } = await sealed(plain);
    expect(decryptWithAge(file).equals(plain)).toBe(true);
    expect(plainLength(file.length)).toBe(plainBytes);
  });

  it.each(BORDERS)('of %i bytes, made by the program age, is opened from its middle too', async (plainBytes) => {
    const plain = randomBytes(plainBytes);
    const file = age(['-r', recipient], plain);
    expect(file.length).toBe(storedLength(plainBytes));
    const payloadKey = await openAgeHead(file.subarray(0, AGE_HEAD_BYTES), [identity]);
    for (const start of chunkStarts(plainBytes)) {
      const rest = file.subarray(storedOffset(start));
      const opened = openChunks(payloadKey, rest, { plainOffset: start, isEnd: true }, Buffer.alloc(rest.length));
      expect(Buffer.compare(opened, plain.subarray(start))).toBe(0);
    }
  });

  it.each([0, 1, 4095])('is sealed %i bytes behind its place in one memory, and opened there', async (behind) => {
    const plain = randomBytes(2 * CHUNK_BYTES + 5);
    const { head, payloadKey } = await createAgeHead(recipient);
    const memory = Buffer.alloc(behind + sealedLength(plain.length));
    plain.copy(memory);
    const place = { plainOffset: 0, isEnd: true };
    const chunks = sealChunks(payloadKey, memory.subarray(0, plain.length), place, memory.subarray(behind));
    expect(decryptWithAge(Buffer.concat([head, chunks])).equals(plain)).toBe(true);
    expect(Buffer.compare(openChunks(payloadKey, chunks, place, memory), plain)).toBe(0);
  });

  it('is refused when a bit of a chunk was altered, by us and by age', async () => {
    const { file, payloadKey } = await sealed(randomBytes(2 * CHUNK_BYTES));
    file[storedOffset(CHUNK_BYTES) + 5]! ^= 1;
    expect(() => openWhole(file, payloadKey)).toThrow(AgeError);
    expect(() => decryptWithAge(file)).toThrow();
    const first = file.subarray(storedOffset(0), storedOffset(CHUNK_BYTES));
    const opened = openChunks(payloadKey, first, { plainOffset: 0, isEnd: false }, Buffer.alloc(CHUNK_BYTES));
    expect(opened.length, 'the other chunk').toBe(CHUNK_BYTES);
  });

  it('is refused when two chunks were swapped', async () => {
    const { file, payloadKey } = await sealed(randomBytes(3 * CHUNK_BYTES));
    const [a, b] = [storedOffset(0), storedOffset(CHUNK_BYTES)];
    const first = Buffer.from(file.subarray(a, a + STORED_CHUNK));
    file.copyWithin(a, b, b + STORED_CHUNK);
    first.copy(file, b);
    expect(() => openWhole(file, payloadKey)).toThrow('plain offset 0 was altered');
  });

  it('is refused when its last chunk is missing, or one more was added', async () => {
    const plain = randomBytes(2 * CHUNK_BYTES);
    const { file, payloadKey } = await sealed(plain);
    expect(() => openWhole(file.subarray(0, storedOffset(CHUNK_BYTES)), payloadKey)).toThrow('not the last one');
    const more = sealChunks(payloadKey, plain, { plainOffset: 2 * CHUNK_BYTES, isEnd: true }, Buffer.alloc(140_000));
    expect(() => openWhole(Buffer.concat([file, more]), payloadKey)).toThrow(AgeError);
    expect(() => openWhole(Buffer.concat([file, Buffer.alloc(TAG_BYTES)]), payloadKey)).toThrow(AgeError);
  });

  it('is not opened by another identity, nor with an altered header', async () => {
    const { head } = await createAgeHead(recipient);
    await expect(openAgeHead(head, [await generateX25519Identity()])).rejects.toMatchObject({ code: 'no-match' });
    await expect(openAgeHead(head, [await generateX25519Identity(), identity])).resolves.toHaveLength(32);
    head[130]! ^= 1; // in the MAC
    await expect(openAgeHead(head, [identity])).rejects.toMatchObject({ code: 'altered' });
    await expect(openAgeHead(Buffer.alloc(AGE_HEAD_BYTES), [identity])).rejects.toMatchObject({ code: 'altered' });
  });

  it('has another key each time', async () => {
    const [one, two] = [await createAgeHead(recipient), await createAgeHead(recipient)];
    expect(one.payloadKey.equals(two.payloadKey)).toBe(false);
  });

  it('has no length between two borders', () => {
    for (const stored of [0, 183, 199, storedLength(CHUNK_BYTES) + 1, storedLength(CHUNK_BYTES) + TAG_BYTES]) {
      expect(() => plainLength(stored)).toThrow(RangeError);
    }
  });

  it('has chunks at whole offsets only', () => {
    const key = randomBytes(32);
    const place = { plainOffset: 4096, isEnd: true };
    expect(() => sealChunks(key, Buffer.alloc(1), place, Buffer.alloc(17))).toThrow(RangeError);
    const middle = { plainOffset: 0, isEnd: false };
    expect(() => sealChunks(key, Buffer.alloc(1), middle, Buffer.alloc(17))).toThrow(RangeError);
  });
});

const STORED_CHUNK = CHUNK_BYTES + TAG_BYTES;

const chunkStarts = (plainBytes: number): number[] =>
  Array.from({ length: Math.max(1, Math.ceil(plainBytes / CHUNK_BYTES)) }, (_, index) => index * CHUNK_BYTES);

function openWhole(file: Buffer, payloadKey: Buffer): Uint8Array {
  const sealed = file.subarray(AGE_HEAD_BYTES);
  return openChunks(payloadKey, sealed, { plainOffset: 0, isEnd: true }, Buffer.alloc(sealed.length));
}
