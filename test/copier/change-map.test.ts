import { describe, expect, it } from 'vitest';
import { buildChangeMap, ChangeMap, DATA, readingOf, ZERO } from '../../copier/change-map.ts';
import type { NbdExtent } from '../../nbd/extents.ts';

const C = 65_536;

/** Extents of given lengths, one after the other. */
async function* extents(...parts: [lengthBytes: number, ...flags: number[]][]): AsyncGenerator<NbdExtent> {
  let offset = 0;
  for (const [lengthBytes, ...flags] of parts) {
    yield { offset, lengthBytes, flags };
    offset += lengthBytes;
  }
}

async function incremental(virtualSizeBytes: number, ...parts: [number, ...number[]][]) {
  const { stateOf } = readingOf('qemu:dirty-bitmap:b');
  const map = await buildChangeMap({ clusterBytes: C, virtualSizeBytes }, extents(...parts), stateOf);
  return { changedBytes: map.changedBytes, dataClusters: map.dataClusters, runs: [...map.runs()] };
}

async function full(virtualSizeBytes: number, ...parts: [number, ...number[]][]) {
  const { stateOf } = readingOf('base:allocation');
  const map = await buildChangeMap({ clusterBytes: C, virtualSizeBytes }, extents(...parts), stateOf);
  return { changedBytes: map.changedBytes, dataClusters: map.dataClusters, runs: [...map.runs()] };
}

describe('the change map of a full', () => {
  it('takes what does not read as zeroes', async () => {
    expect(await full(10 * C, [2 * C, 0], [C, 3], [3 * C, 2], [C, 1], [3 * C, 3])).toEqual({
      changedBytes: 3 * C,
      dataClusters: 3,
      runs: [
        { first: 0, count: 2, state: DATA },
        { first: 6, count: 1, state: DATA },
      ],
    });
  });

  it('rounds to clusters and counts what is allocated', async () => {
    expect(await full(4 * C, [4096, 3], [512, 0], [2 * C, 3], [2 * C - 4608, 0])).toEqual({
      changedBytes: 512 + 2 * C - 4608,
      dataClusters: 3,
      runs: [
        { first: 0, count: 1, state: DATA },
        { first: 2, count: 2, state: DATA },
      ],
    });
  });

  it('of a disk that ends within a cluster', async () => {
    expect((await full(C + 512, [C, 3], [512, 0])).runs).toEqual([{ first: 1, count: 1, state: DATA }]);
    expect((await full(512, [512, 0])).runs).toEqual([{ first: 0, count: 1, state: DATA }]);
    expect((await full(0)).runs).toEqual([]);
  });
});

describe('the change map of an incremental', () => {
  it('tells changed zeroes from changed data and from what has not changed', async () => {
    expect(
      await incremental(10 * C, [C, 0, 0], [2 * C, 1, 0], [3 * C, 1, 2], [C, 0, 2], [2 * C, 1, 3], [C, 1, 1]),
    ).toEqual({
      changedBytes: 8 * C,
      dataClusters: 3,
      runs: [
        { first: 1, count: 2, state: DATA },
        { first: 3, count: 3, state: ZERO },
        { first: 7, count: 2, state: ZERO },
        { first: 9, count: 1, state: DATA },
      ],
    });
  });

  it.each<[string, [number, number, number][], number]>([
    [
      'zero and data',
      [
        [4096, 1, 2],
        [C - 4096, 1, 0],
      ],
      DATA,
    ],
    [
      'zero and unchanged',
      [
        [4096, 1, 2],
        [C - 4096, 0, 0],
      ],
      DATA,
    ],
    [
      'unchanged and zero',
      [
        [4096, 0, 0],
        [C - 4096, 1, 2],
      ],
      DATA,
    ],
    [
      'zero in two pieces',
      [
        [4096, 1, 2],
        [C - 4096, 1, 3],
      ],
      ZERO,
    ],
  ])('a cluster that is partly %s', async (_, parts, state) => {
    expect((await incremental(2 * C, ...parts, [C, 0, 0])).runs).toEqual([{ first: 0, count: 1, state }]);
  });

  it('the last cluster counts to the end of the disk only', async () => {
    expect((await incremental(C + 512, [C, 0, 0], [512, 1, 2])).runs).toEqual([{ first: 1, count: 1, state: ZERO }]);
  });

  it('over allocation depth takes as many layers as it is told', async () => {
    const parts: [number, ...number[]][] = [
      [C, 0, 3],
      [C, 1, 0],
      [C, 2, 0],
      [C, 3, 0],
    ];
    const of = async (depth: number | undefined) => {
      const { stateOf } = readingOf('qemu:allocation-depth', depth);
      return [
        ...(await buildChangeMap({ clusterBytes: C, virtualSizeBytes: 4 * C }, extents(...parts), stateOf)).runs(),
      ];
    };
    expect(await of(undefined)).toEqual([{ first: 1, count: 1, state: DATA }]);
    expect(await of(2)).toEqual([{ first: 1, count: 2, state: DATA }]);
  });
});

describe('ChangeMap', () => {
  it('keeps any number of runs', () => {
    const map = new ChangeMap(C, 2 ** 45);
    for (let i = 0; i < 10_000; i++) map.append({ first: i * 2, count: 1, state: i % 3 === 0 ? ZERO : DATA });
    const runs = [...map.runs()];
    expect(runs.length).toBe(10_000);
    expect(runs[9_999]).toEqual({ first: 19_998, count: 1, state: ZERO });
  });

  it('has a hash of sizes and runs, whatever the extents were', async () => {
    const { stateOf } = readingOf('base:allocation');
    const hash = async (clusterBytes: number, ...parts: [number, number][]) =>
      (await buildChangeMap({ clusterBytes, virtualSizeBytes: 8 * C }, extents(...parts), stateOf)).sha256();
    expect(await hash(C, [4 * C, 0], [4 * C, 3])).toBe(await hash(C, [2 * C, 0], [2 * C, 0], [C, 3], [3 * C, 2]));
    expect(await hash(C, [4 * C, 0], [4 * C, 3])).not.toBe(await hash(C, [5 * C, 0], [3 * C, 3]));
    expect(await hash(C, [4 * C, 0], [4 * C, 3])).not.toBe(await hash(2 * C, [4 * C, 0], [4 * C, 3]));
  });
});
