import { describe, expect, it } from 'vitest';
import { ChangeMap, DATA, ZERO } from '../../copier/change-map.ts';
import { expectedStoredBytes, planSegments, segmentCount } from '../../copier/copy-plan.ts';
import { encodeTables, type MappedCluster } from '../../qcow2/tables.ts';

const C = 65_536;

function mapOf(virtualSizeBytes: number, ...runs: [first: number, count: number, state: 1 | 2][]): ChangeMap {
  const map = new ChangeMap(C, virtualSizeBytes);
  for (const [first, count, state] of runs) map.append({ first, count, state });
  return map;
}

describe('planSegments', () => {
  it('fills segments of 4 MiB from runs of any length', () => {
    const map = mapOf(1000 * C, [0, 10, DATA], [20, 5, ZERO], [100, 120, DATA], [500, 3, DATA]);
    expect([...planSegments(map)]).toEqual([
      { index: 0, firstOrdinal: 0, clusters: 64, runs: [0, 10, 100, 54], readBytes: 64 * C },
      { index: 1, firstOrdinal: 64, clusters: 64, runs: [154, 64], readBytes: 64 * C },
      { index: 2, firstOrdinal: 128, clusters: 5, runs: [218, 2, 500, 3], readBytes: 5 * C },
    ]);
    expect(segmentCount(map)).toBe(3);
  });

  it('reads no further than the end of the disk', () => {
    expect([...planSegments(mapOf(3 * C + 512, [2, 2, DATA]))]).toMatchObject([{ clusters: 2, readBytes: C + 512 }]);
  });

  it('plans nothing where nothing is to be read', () => {
    expect([...planSegments(mapOf(C, [0, 1, ZERO]))]).toEqual([]);
    expect(segmentCount(mapOf(0))).toBe(0);
  });
});

describe('expectedStoredBytes', () => {
  it.each<[string, ChangeMap]>([
    ['an empty disk', mapOf(0)],
    ['a small disk', mapOf(512, [0, 1, DATA])],
    ['scattered clusters', mapOf(40_000 * C, [0, 1, DATA], [8191, 2, DATA], [30_000, 1, ZERO], [39_999, 1, DATA])],
    ['many clusters', mapOf(200_000 * C, [5, 150_000, DATA], [160_000, 40_000, ZERO])],
    ['a giant disk', mapOf(2 ** 45, [7, 1, DATA])],
  ])('is what %s takes when nothing can be compressed', (_, map) => {
    const clusters: MappedCluster[] = [];
    let offset = C;
    for (const { first, count, state } of map.runs()) {
      if (state === ZERO) clusters.push({ kind: 'zero', guest: first, count });
      else for (let i = 0; i < count; i++, offset += C) clusters.push({ kind: 'plain', guest: first + i, offset });
    }
    const tables = encodeTables({ clusterBits: 16, virtualSizeBytes: map.virtualSizeBytes }, clusters, offset);
    let part = tables.next();
    while (part.done !== true) part = tables.next();
    expect(expectedStoredBytes(map)).toBeGreaterThanOrEqual(part.value.endOffset);
    expect(expectedStoredBytes(map)).toBeLessThanOrEqual(part.value.endOffset + 2 * C);
  });
});
