import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { checkSegments, segmentAt } from '../../copier/chain-source.ts';
import type { ChainFile } from '../../copier/contract.ts';
import { VerifiedBytes } from '../../copier/verified-bytes.ts';
import { AGE_HEAD_BYTES, CHUNK_BYTES, storedLength, storedOffset } from '../../repository/age-file.ts';
import type { BlobSource } from '../../repository/blob-store.ts';
import { sha256 } from '../support/stored-chain.ts';

const content = randomBytes(100_000);
const CUTS = [0, 10_000, 10_001, 50_000, 60_000, 70_000, 80_000, 100_000];

function stored(): ChainFile {
  return {
    source: { kind: 'file', path: '/nowhere', blobKey: 'vm/disk-0/a.qcow2' },
    storedBytes: content.length,
    segments: CUTS.slice(1).map((end, index) => {
      const offset = CUTS[index]!;
      return { offset, lengthBytes: end - offset, sha256: sha256(content.subarray(offset, end)) };
    }),
  };
}

function sourceOf(bytes: Buffer): BlobSource & { reads: number } {
  return {
    reads: 0,
    read(offset, into) {
      this.reads += 1;
      return Promise.resolve(bytes.copy(into, 0, offset, offset + into.length));
    },
    sizeBytes: () => Promise.resolve(bytes.length),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

describe('VerifiedBytes', () => {
  const signal = new AbortController().signal;

  it('hands out any stretch, also across segments', async () => {
    const bytes = new VerifiedBytes(stored(), sourceOf(content), signal);
    for (const [offset, length] of [
      [0, 10],
      [9_999, 2],
      [0, 100_000],
      [10_000, 1],
      [49_999, 50_001],
    ] as const) {
      expect((await bytes.read(offset, length)).equals(content.subarray(offset, offset + length))).toBe(true);
    }
    expect(bytes.verified.size).toBe(7);
  });

  it('reads a segment once as long as it is in use', async () => {
    const source = sourceOf(content);
    const bytes = new VerifiedBytes(stored(), source, signal);
    for (let n = 0; n < 100; n += 1) await bytes.read(60_000 + n, 8);
    expect(source.reads).toBe(1);
  });

  it('refuses a segment in which one bit differs, wherever it is', async () => {
    for (const offset of [0, 10_000, 55_555, 99_999]) {
      const altered = Buffer.from(content);
      altered[offset]! ^= 1;
      const bytes = new VerifiedBytes(stored(), sourceOf(altered), signal);
      await expect(bytes.read(offset, 1)).rejects.toMatchObject({ code: 'integrity', file: 'vm/disk-0/a.qcow2' });
    }
  });

  it('refuses a file that ends early', async () => {
    const bytes = new VerifiedBytes(stored(), sourceOf(content.subarray(0, 99_999)), signal);
    await expect(bytes.read(90_000, 1)).rejects.toThrow('the file ends at 99999');
  });
});

const withSegments = (segments: { offset: number; lengthBytes: number }[], storedBytes: number): ChainFile => ({
  ...stored(),
  storedBytes,
  segments: segments.map((segment) => ({ ...segment, sha256: 'a'.repeat(64) })),
});

describe('checkSegments', () => {
  it.each([
    [
      'a gap',
      [
        { offset: 0, lengthBytes: 10 },
        { offset: 11, lengthBytes: 9 },
      ],
      20,
    ],
    [
      'an overlap',
      [
        { offset: 0, lengthBytes: 10 },
        { offset: 9, lengthBytes: 11 },
      ],
      20,
    ],
    ['a late start', [{ offset: 1, lengthBytes: 19 }], 20],
    ['an early end', [{ offset: 0, lengthBytes: 19 }], 20],
    ['a late end', [{ offset: 0, lengthBytes: 21 }], 20],
    ['a segment of a terabyte', [{ offset: 0, lengthBytes: 2 ** 40 }], 2 ** 40],
    [
      'an empty segment',
      [
        { offset: 0, lengthBytes: 0 },
        { offset: 0, lengthBytes: 20 },
      ],
      20,
    ],
    [
      'part of a byte',
      [
        { offset: 0, lengthBytes: 0.5 },
        { offset: 0.5, lengthBytes: 19.5 },
      ],
      20,
    ],
  ])('refuses %s', (_, segments, storedBytes) => {
    expect(() => checkSegments(withSegments(segments, storedBytes))).toThrow(/^vm\/disk-0\/a\.qcow2: the sums /);
  });

  it('accepts what covers the file', () => {
    expect(() => checkSegments(stored())).not.toThrow();
  });
});

describe('segments of an encrypted file', () => {
  const plainBytes = 3 * CHUNK_BYTES + 10;
  const encrypted = (borders: number[]): ChainFile => ({
    ...withSegments(
      borders.slice(1).map((end, index) => ({
        offset: borders[index]!,
        lengthBytes: end - borders[index]!,
        sha256: sha256(content),
      })),
      storedLength(plainBytes),
    ),
    encryption: { payloadKey: randomBytes(32), plainBytes },
  });
  const end = storedLength(plainBytes);

  it('are whole chunks, the first with the head before it', () => {
    for (const borders of [
      [0, end],
      [0, storedOffset(CHUNK_BYTES), storedOffset(3 * CHUNK_BYTES), end],
    ]) {
      expect(() => checkSegments(encrypted(borders))).not.toThrow();
    }
    for (const cut of [AGE_HEAD_BYTES, AGE_HEAD_BYTES + CHUNK_BYTES, storedOffset(CHUNK_BYTES) + 1, 1]) {
      expect(() => checkSegments(encrypted([0, cut, end]))).toThrow('where no encrypted chunk begins');
    }
  });

  it('are refused when the file has not the length of what it should hold', () => {
    const file = encrypted([0, end]);
    const encryption = { ...file.encryption!, plainBytes: plainBytes - 1 };
    expect(() => checkSegments({ ...file, encryption })).toThrow('encrypted ones');
  });
});

describe('segmentAt', () => {
  it('finds the segment of every offset, whatever the hint', () => {
    const { segments } = stored();
    for (const offset of [0, 9_999, 10_000, 10_001, 49_999, 50_000, 99_999]) {
      const expected = CUTS.findLastIndex((cut) => cut <= offset);
      for (const hint of [0, 3, 6, 100]) expect(segmentAt(segments, offset, hint)).toBe(expected);
    }
    expect(() => segmentAt(segments, 100_000)).toThrow(RangeError);
  });
});
