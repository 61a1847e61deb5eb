import { randomBytes } from 'node:crypto';
import { zstdDecompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { ClusterCompressor } from '../../copier/cluster-compressor.ts';

const text = (length: number, seed = 0) =>
  Buffer.alloc(length, Array.from({ length: 999 }, (_, i) => `line ${i * seed}\n`).join(''));

describe.each([
  [65_536, true],
  [262_144, true],
  [65_536, false],
])('ClusterCompressor for clusters of %i bytes, reusing its context: %s', (clusterBytes, reusesContext) => {
  it('packs frames that zstd reads, one behind the other', () => {
    const compressor = new ClusterCompressor(clusterBytes, { reusesContext });
    const into = Buffer.alloc(clusterBytes * 4 + compressor.roomBytes, 0xee);
    const clusters = [text(clusterBytes, 3), Buffer.alloc(clusterBytes, 7), text(clusterBytes, 12_345)];
    let at = 0;
    for (const cluster of clusters) {
      const size = compressor.compress(cluster, into, at)!;
      expect(size).toBeLessThan(clusterBytes);
      expect(zstdDecompressSync(into.subarray(at, at + size)).equals(cluster)).toBe(true);
      at += size;
    }
  });

  it('makes the same bytes of a cluster again, whatever came before it', () => {
    const into = Buffer.alloc(clusterBytes * 2);
    const clusters = Array.from({ length: 24 }, (_, i) => {
      const cluster = text(clusterBytes, i * 7919);
      if (i % 3 === 1) randomBytes(clusterBytes / 2).copy(cluster, (i * 997) % (clusterBytes / 2));
      return i % 7 === 3 ? randomBytes(clusterBytes) : cluster;
    });
    const framesOf = (order: number[]): Buffer[] => {
      const compressor = new ClusterCompressor(clusterBytes, { reusesContext });
      const frames: Buffer[] = [];
      for (const index of order) {
        const size = compressor.compressAgain(clusters[index]!, into, 0);
        frames[index] = Buffer.from(into.subarray(0, size < clusterBytes ? size : 0));
      }
      return frames;
    };
    const inOrder = clusters.map((_, index) => index);
    const expected = framesOf(inOrder);
    expect(framesOf(inOrder.toReversed())).toEqual(expected);
    expect(framesOf(inOrder.toSorted((a, b) => ((a * 7) % 24) - ((b * 7) % 24)))).toEqual(expected);
    for (const index of inOrder) expect(framesOf([index])[index]).toEqual(expected[index]);
  });

  it('stops trying on what cannot be compressed, and starts again', () => {
    const compressor = new ClusterCompressor(clusterBytes, { reusesContext });
    const into = Buffer.alloc(compressor.roomBytes);
    const noise = randomBytes(clusterBytes);
    expect(compressor.compress(noise, into, 0)).toBeUndefined();
    expect(compressor.compress(noise, into, 0)).toBeUndefined();
    const attempts = Array.from({ length: 8 }, () => compressor.compress(text(clusterBytes, 5), into, 0));
    expect(attempts.map((size) => size !== undefined)).toEqual([false, false, false, false, false, false, false, true]);
    expect(compressor.compress(text(clusterBytes, 6), into, 0)).toBeDefined();
  });

  it('stores as it is what would save less than a sixteenth', () => {
    const compressor = new ClusterCompressor(clusterBytes, { reusesContext });
    const almost = randomBytes(clusterBytes).fill(0, 0, clusterBytes / 32);
    expect(compressor.compress(almost, Buffer.alloc(compressor.roomBytes), 0)).toBeUndefined();
  });
});
