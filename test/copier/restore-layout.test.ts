import { describe, expect, it } from 'vitest';
import { CLUSTER_BYTES, DESTINATION_CLUSTER_BITS, PlainQcow2Layout, RawLayout } from '../../copier/restore-layout.ts';
import { pieceAt, PieceList } from '../../copier/restore-pieces.ts';
import { encodeTables } from '../../qcow2/tables.ts';

const C = CLUSTER_BYTES;

describe('PlainQcow2Layout', () => {
  it('packs the clusters that have data behind the header, in guest order', () => {
    const layout = new PlainQcow2Layout();
    expect(layout.place(10 * C, 2 * C)).toBe(C);
    expect(layout.place(12 * C, C)).toBe(3 * C);
    expect(layout.place(1000 * C, C)).toBe(4 * C);
    expect(layout.dataBytes).toBe(4 * C);
    expect(layout.tailOffset).toBe(5 * C);
    expect(
      [...layout.clusters()].map((cluster) => ('offset' in cluster ? [cluster.guest, cluster.offset / C] : [])),
    ).toEqual([
      [10, 1],
      [11, 2],
      [12, 3],
      [1000, 4],
    ]);
  });

  it('puts stretches smaller than a cluster into the same one', () => {
    const layout = new PlainQcow2Layout();
    expect(layout.place(5 * C + 512, 512)).toBe(C + 512);
    expect(layout.place(5 * C + 4096, 4096)).toBe(C + 4096);
    expect(layout.place(6 * C - 512, 1024)).toBe(2 * C - 512);
    expect(layout.place(6 * C + 512, 2 * C)).toBe(2 * C + 512);
    expect(layout.place(9 * C, 1)).toBe(5 * C);
    expect(layout.dataBytes).toBe(5 * C);
  });

  it.each([
    ['nothing', 0, []],
    ['one cluster at the end of 2 TiB', 2 ** 41, [[2 ** 25 - 1, 1]]],
    ['a cluster in each of many tables', 2 ** 41, Array.from({ length: 500 }, (_, n) => [n * 40_000, 1])],
    ['100 GiB in a row', 2 ** 37, [[0, 1_638_400]]],
  ] as [string, number, [number, number][]][])(
    'foretells the room its tables take: %s',
    (_, virtualSizeBytes, runs) => {
      const layout = new PlainQcow2Layout();
      for (const [first, count] of runs) layout.place(first * C, count * C);
      const shape = { clusterBits: DESTINATION_CLUSTER_BITS, virtualSizeBytes };
      const tables = encodeTables(shape, layout.clusters(), layout.tailOffset);
      let tableBytes = C; // the header
      let next = tables.next();
      for (; next.done !== true; next = tables.next()) tableBytes += next.value.length;
      expect(next.value.endOffset).toBe(layout.dataBytes + tableBytes);
      expect(layout.tableBytes(shape)).toBeGreaterThanOrEqual(tableBytes);
      expect(layout.tableBytes(shape)).toBeLessThanOrEqual(tableBytes + 4 * C);
    },
  );
});

describe('RawLayout', () => {
  it('puts each byte at its guest offset', () => {
    const layout = new RawLayout();
    expect(layout.place(12_345, 512)).toBe(12_345);
    expect(layout.dataBytes).toBe(512);
    expect(layout.dataEnd({ clusterBits: 16, virtualSizeBytes: 99_840 })).toBe(99_840);
  });
});

describe('PieceList', () => {
  const piece = (n: number) => ({
    hostOffset: n,
    compressedBytes: 2 ** 20 + n,
    innerOffset: n + 1,
    lengthBytes: n + 2,
    destinationOffset: 2 ** 50 + n,
  });
  const collected = (list: PieceList) =>
    [...list.bySegment()].map(({ segment, pieces }) => [
      segment,
      Array.from({ length: pieces.length / 5 }, (_, index) => pieceAt(pieces, index)),
    ]);

  it.each([
    ['in order of the segments', [0, 0, 3, 3, 7]],
    ['out of order', [7, 0, 3, 0, 3]],
  ])('gives the pieces of each segment as they were added, added %s', (_, order) => {
    const list = new PieceList();
    const expected = new Map<number, ReturnType<typeof piece>[]>([
      [0, []],
      [3, []],
      [7, []],
    ]);
    for (let n = 0; n < 1000; n += 1) {
      const segment = order[Math.floor((n / 1000) * order.length)]!;
      list.add(segment, piece(n));
      expected.get(segment)!.push(piece(n));
    }
    expect(collected(list)).toEqual([...expected]);
  });

  it('may be empty', () => {
    expect(collected(new PieceList())).toEqual([]);
  });
});
