import { describe, expect, it } from 'vitest';
import { ChangeMap, DATA } from '../../copier/change-map.ts';
import { segmentCount } from '../../copier/copy-plan.ts';
import { StoredSegments } from '../../copier/stored-segments.ts';

const C = 262_144;

function empty(clusters: number): StoredSegments {
  const map = new ChangeMap(C, clusters * C);
  map.append({ first: 0, count: clusters, state: DATA });
  return new StoredSegments(map, segmentCount(map));
}

describe('StoredSegments', () => {
  it('returns what it was given', () => {
    const stored = empty(20);
    stored.set({
      index: 1,
      offset: 2 ** 45,
      lengthBytes: 8192,
      sha256: Buffer.alloc(32, 5),
      sizes: Uint32Array.of(0, 8000, 1, C),
    });
    expect([stored.has(0), stored.has(1), stored.count, stored.storedBytes, stored.hasCompressed]).toEqual([
      false,
      true,
      1,
      8192,
      true,
    ]);
    expect(stored.get(1)).toEqual({ offset: 2 ** 45, sizes: Uint32Array.of(0, 8000, 1, C) });
    expect(stored.sums()).toEqual([{ offset: 2 ** 45, lengthBytes: 8192, sha256: '05'.repeat(32) }]);
    expect(() => stored.get(0)).toThrow('segment 0 is not stored');
  });

  it('lists no bytes for a segment of zeroes', () => {
    const stored = empty(16);
    stored.set({ index: 0, offset: 0, lengthBytes: 0, sha256: Buffer.alloc(32), sizes: new Uint32Array(16) });
    expect([stored.count, stored.sums(), stored.hasCompressed]).toEqual([1, [], false]);
  });

  it('takes a segment only once', () => {
    const stored = empty(16);
    const segment = { index: 0, offset: C, lengthBytes: C, sha256: Buffer.alloc(32), sizes: Uint32Array.of(C) };
    stored.set(segment);
    expect(() => stored.set(segment)).toThrow('stored twice');
  });
});
