import { describe, expect, it } from 'vitest';
import { encodeTables, type MappedCluster } from '../../qcow2/tables.ts';
import { buildImage, readImage } from './image-check.ts';

const C = 65_536;
const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const TIB = 1024 * GIB;
const small = { clusterBits: 16, virtualSizeBytes: 10 * C };

describe('encodeTables', () => {
  it('maps plain, compressed, zero and no clusters', () => {
    const clusters: MappedCluster[] = [
      { kind: 'plain', guest: 0, offset: C },
      { kind: 'compressed', guest: 2, offset: 2 * C, storedBytes: 700 },
      { kind: 'compressed', guest: 3, offset: 2 * C + 700, storedBytes: 324 },
      { kind: 'compressed', guest: 4, offset: 2 * C + 1024, storedBytes: 512 },
      { kind: 'zero', guest: 5, count: 3 },
      { kind: 'compressed', guest: 9, offset: 3 * C - 10, storedBytes: 20 },
    ];
    const { clusters: found, wrongRefcounts } = readImage(buildImage(small, clusters, 3 * C + 10));
    expect(wrongRefcounts).toEqual([]);
    expect(Object.fromEntries(found)).toEqual({
      0: `plain ${C}`,
      2: `compressed ${2 * C} within ${2 * C + 1024}`,
      3: `compressed ${2 * C + 700} within ${2 * C + 1024}`,
      4: `compressed ${2 * C + 1024} within ${2 * C + 1536}`,
      5: 'zero',
      6: 'zero',
      7: 'zero',
      9: `compressed ${3 * C - 10} within ${3 * C + 512}`,
    });
  });

  it.each([
    ['of size 0', 0],
    ['of one sector', 512],
    ['of less than a cluster', C - 512],
    ['of one cluster', C],
    ['that ends within a cluster', 10 * C + 1024],
    ['of exactly one L2 table', 512 * MIB],
    ['of one cluster more', 512 * MIB + C],
  ])('makes a sound empty image for a disk %s', (_, virtualSizeBytes) => {
    const image = buildImage({ clusterBits: 16, virtualSizeBytes }, [], C);
    expect(readImage(image)).toEqual({ clusters: new Map(), wrongRefcounts: [] });
    expect(image.length % C).toBe(0);
  });

  it.each([9, 12, 16, 18, 21])('is sound for clusters of 2^%i bytes', (clusterBits) => {
    const bytes = 2 ** clusterBits;
    const perTable = bytes / 8;
    const layout = { clusterBits, virtualSizeBytes: 3 * perTable * bytes };
    const clusters: MappedCluster[] = [
      { kind: 'plain', guest: 1, offset: 2 * bytes },
      { kind: 'compressed', guest: perTable - 1, offset: 3 * bytes + 17, storedBytes: bytes - 17 },
      { kind: 'zero', guest: perTable, count: perTable + 1 },
      { kind: 'plain', guest: 3 * perTable - 1, offset: 4 * bytes },
    ];
    const { clusters: found, wrongRefcounts } = readImage(buildImage(layout, clusters, 5 * bytes));
    expect(wrongRefcounts).toEqual([]);
    expect(found.size).toBe(3 + perTable + 1);
    expect(found.get(perTable - 1)).toBe(`compressed ${3 * bytes + 17} within ${4 * bytes}`);
    expect(found.get(2 * perTable)).toBe('zero');
    expect(found.get(3 * perTable - 1)).toBe(`plain ${4 * bytes}`);
  });

  it('counts refcount blocks that count themselves', () => {
    // 512-byte clusters: a block counts 256 clusters, so the tables need blocks for their own blocks.
    for (let count = 240; count < 270; count++) {
      const layout = { clusterBits: 9, virtualSizeBytes: 512 * 1024 };
      const clusters = Array.from({ length: count }, (_, i): MappedCluster => ({
        kind: 'plain',
        guest: i,
        offset: (i + 1) * 512,
      }));
      expect(readImage(buildImage(layout, clusters, (count + 1) * 512)).wrongRefcounts).toEqual([]);
    }
  });

  it('keeps offsets above 4 GiB apart from flags', () => {
    const offset = 5 * TIB;
    const tables = encodeTables(
      small,
      [
        { kind: 'plain', guest: 0, offset },
        { kind: 'compressed', guest: 1, offset: offset + C + 3, storedBytes: 60_000 },
      ],
      offset + 2 * C,
    );
    const l2 = tables.next().value as Buffer;
    expect(l2.readBigUInt64BE(0)).toBe((1n << 63n) | BigInt(offset));
    expect(l2.readBigUInt64BE(8)).toBe((1n << 62n) | (117n << 54n) | BigInt(offset + C + 3));
  });

  it('allocates by what is stored, not by the size of the disk', () => {
    const layout = { clusterBits: 16, virtualSizeBytes: 64 * TIB };
    const last = layout.virtualSizeBytes / C - 1;
    let count = 0;
    for (const table of encodeTables(layout, [{ kind: 'plain', guest: last, offset: C }], 2 * C))
      count += table.length / C;
    expect(count).toBe(1 + (64 * TIB) / (512 * MIB) / 8192 + 1 + 1); // one L2 table, L1, refcount block and table
  });

  it.each<[string, MappedCluster[]]>([
    [
      'clusters out of order',
      [
        { kind: 'plain', guest: 2, offset: C },
        { kind: 'plain', guest: 1, offset: 2 * C },
      ],
    ],
    [
      'a cluster twice',
      [
        { kind: 'zero', guest: 1, count: 2 },
        { kind: 'plain', guest: 2, offset: C },
      ],
    ],
    ['a cluster behind the disk', [{ kind: 'plain', guest: 10, offset: C }]],
    ['zeroes that reach behind the disk', [{ kind: 'zero', guest: 8, count: 3 }]],
    ['no zeroes', [{ kind: 'zero', guest: 8, count: 0 }]],
    ['a plain cluster off its boundary', [{ kind: 'plain', guest: 0, offset: C + 512 }]],
    ['data in the header', [{ kind: 'plain', guest: 0, offset: 0 }]],
    ['data in the tables', [{ kind: 'plain', guest: 0, offset: 4 * C }]],
    [
      'a compressed cluster that reaches into the tables',
      [{ kind: 'compressed', guest: 0, offset: 4 * C - 10, storedBytes: 11 }],
    ],
    ['a compressed cluster of 0 bytes', [{ kind: 'compressed', guest: 0, offset: C, storedBytes: 0 }]],
    ['a compressed cluster larger than a cluster', [{ kind: 'compressed', guest: 0, offset: C, storedBytes: C + 1 }]],
  ])('refuses %s', (_, clusters) => {
    expect(() => [...encodeTables(small, clusters, 4 * C)]).toThrow(RangeError);
  });

  it.each([
    ['a size that is no multiple of 512', { clusterBits: 16, virtualSizeBytes: 513 }],
    ['clusters too small', { clusterBits: 8, virtualSizeBytes: 512 }],
    ['clusters too large', { clusterBits: 22, virtualSizeBytes: 512 }],
    ['a disk whose L1 table QEMU would refuse', { clusterBits: 9, virtualSizeBytes: 256 * GIB }],
  ])('refuses %s', (_, layout) => {
    expect(() => [...encodeTables(layout, [], 2 ** 22)]).toThrow(RangeError);
  });

  it('refuses tables that would start within a cluster', () => {
    expect(() => [...encodeTables(small, [], C + 4096)]).toThrow(RangeError);
  });
});
