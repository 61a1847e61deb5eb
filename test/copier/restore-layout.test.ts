import { describe, expect, it } from 'vitest';
import { CLUSTER_BYTES, DESTINATION_CLUSTER_BITS, PlainQcow2Layout, RawLayout } from '../../copier/restore-layout.ts';
import { pieceRuns } from '../../copier/piece-runs.ts';
import { pieceAt, PieceList, settlePieces } from '../../copier/restore-pieces.ts';
import { encodeTables } from '../../qcow2/tables.ts';

const C = CLUSTER_BYTES;

describe('PlainQcow2Layout', () => {
  const mapped = (layout: PlainQcow2Layout) =>
    [...layout.clusters()].map((cluster) => ('offset' in cluster ? [cluster.guest, cluster.offset / C] : []));

  it('packs the clusters that have data behind the header, in the order they are settled', () => {
    const layout = new PlainQcow2Layout();
    const early = layout.place(10 * C, 2 * C);
    const middle = layout.place(12 * C, C);
    const late = layout.place(1000 * C, 3 * C);
    expect(layout.dataBytes).toBe(6 * C);
    expect(layout.tailOffset).toBe(7 * C);
    expect(layout.settle(middle, C)).toEqual([{ offset: C, lengthBytes: C }]);
    expect(layout.settle(late, 3 * C)).toEqual([{ offset: 2 * C, lengthBytes: 3 * C }]);
    expect(layout.settle(early, C)).toEqual([{ offset: 5 * C, lengthBytes: C }]);
    expect(layout.settle(early + C, C)).toEqual([{ offset: 6 * C, lengthBytes: C }]);
    expect(mapped(layout)).toEqual([
      [10, 5],
      [11, 6],
      [12, 1],
      [1000, 2],
      [1001, 3],
      [1002, 4],
    ]);
  });

  it('puts stretches smaller than a cluster into the same one, and cuts those that reach into one that is settled', () => {
    const layout = new PlainQcow2Layout();
    const stretches = [
      [5 * C + 512, 512],
      [5 * C + 4096, 4096],
      [6 * C - 512, 1024],
      [6 * C + 512, 2 * C],
      [9 * C, 1],
    ] as const;
    const positions = stretches.map(([offset, length]) => layout.place(offset, length));
    expect(layout.dataBytes).toBe(5 * C);
    expect(layout.settle(positions[4]!, 1)).toEqual([{ offset: C, lengthBytes: 1 }]);
    expect(layout.settle(positions[3]!, 2 * C)).toEqual([{ offset: 2 * C + 512, lengthBytes: 2 * C }]);
    expect(layout.settle(positions[2]!, 1024)).toEqual([
      { offset: 6 * C - 512, lengthBytes: 512 },
      { offset: 2 * C, lengthBytes: 512 },
    ]);
    expect(layout.settle(positions[1]!, 4096)).toEqual([{ offset: 5 * C + 4096, lengthBytes: 4096 }]);
    expect(layout.settle(positions[0]!, 512)).toEqual([{ offset: 5 * C + 512, lengthBytes: 512 }]);
    expect(mapped(layout)).toEqual([
      [5, 5],
      [6, 2],
      [7, 3],
      [8, 4],
      [9, 1],
    ]);
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
      layout.settle(0, layout.dataBytes);
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
    expect(layout.settle(layout.place(12_345, 512), 512)).toEqual([{ offset: 12_345, lengthBytes: 512 }]);
    expect(layout.dataBytes).toBe(512);
    expect(layout.dataEnd({ clusterBits: 16, virtualSizeBytes: 99_840 })).toBe(99_840);
  });
});

describe('settlePieces', () => {
  it('cuts a piece that has several places, stored plain or compressed', () => {
    const settle = (position: number, lengthBytes: number) => [
      { offset: position + 7, lengthBytes: 10 },
      { offset: position + 99, lengthBytes: lengthBytes - 10 },
    ];
    const settled = settlePieces(Float64Array.of(1000, 0, 0, 64, 5, 2000, 300, 20, 30, 6), { settle });
    expect(Array.from({ length: 4 }, (_, index) => pieceAt(settled, index))).toEqual([
      { hostOffset: 1000, compressedBytes: 0, innerOffset: 0, lengthBytes: 10, destinationOffset: 12 },
      { hostOffset: 1010, compressedBytes: 0, innerOffset: 0, lengthBytes: 54, destinationOffset: 104 },
      { hostOffset: 2000, compressedBytes: 300, innerOffset: 20, lengthBytes: 10, destinationOffset: 13 },
      { hostOffset: 2000, compressedBytes: 300, innerOffset: 30, lengthBytes: 20, destinationOffset: 105 },
    ]);
  });
});

describe('pieceRuns', () => {
  const run = (...fields: number[]) => [...pieceRuns(Float64Array.from(fields))];

  it('joins what follows in the destination; plain only if it also follows in the file', () => {
    expect(run(0, 0, 0, 10, 100, 10, 0, 0, 10, 110, 30, 0, 0, 10, 120, 40, 0, 0, 10, 200)).toEqual([
      { from: 0, to: 3, destinationOffset: 100, lengthBytes: 30, plainOffset: undefined },
      { from: 3, to: 4, destinationOffset: 200, lengthBytes: 10, plainOffset: 40 },
    ]);
    expect(run(0, 0, 0, 10, 100, 10, 0, 0, 10, 110)).toMatchObject([{ from: 0, to: 2, plainOffset: 0 }]);
    expect(run(0, 5, 0, 10, 100)).toMatchObject([{ from: 0, to: 1, plainOffset: undefined }]);
  });

  it('makes no write longer than 4 MiB of several pieces', () => {
    const pieces = Array.from({ length: 5 }, (_, n) => [n * 2 ** 20, 0, 0, 2 ** 20, n * 2 ** 20]).flat();
    expect(run(...pieces).map(({ from, to }) => [from, to])).toEqual([
      [0, 4],
      [4, 5],
    ]);
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
