import { describe, expect, it } from 'vitest';
import { FileSpace } from '../../copier/file-space.ts';
import { placeClusters } from '../../copier/place-clusters.ts';

const C = 65_536;
const sizes = (...all: number[]) => Uint32Array.from(all);

describe('placeClusters', () => {
  it('puts plain clusters one behind the other', () => {
    expect(placeClusters(2 * C, sizes(C, 0, C), C)).toEqual({
      offsets: Float64Array.of(2 * C, 0, 3 * C),
      lengthBytes: 2 * C,
    });
  });

  it('packs compressed clusters and pads to what O_DIRECT writes', () => {
    expect(placeClusters(C + 4096, sizes(100, 0, 5000, 7), C)).toEqual({
      offsets: Float64Array.of(C + 4096, 0, C + 4196, C + 9196),
      lengthBytes: 8192,
    });
  });

  it('fills the gap before the first plain cluster with compressed ones', () => {
    const start = 2 * C - 8192;
    expect(placeClusters(start, sizes(C, 5000, 6000, 3000, C), C)).toEqual({
      offsets: Float64Array.of(2 * C, start, 4 * C, start + 5000, 3 * C),
      lengthBytes: 8192 + 2 * C + 8192,
    });
  });

  it('takes nothing for zero clusters', () => {
    expect(placeClusters(C, sizes(0, 0), C)).toEqual({ offsets: Float64Array.of(0, 0), lengthBytes: 0 });
  });

  it('never overlaps, and stays within its segment, whatever the sizes', () => {
    for (let round = 0; round < 500; round++) {
      const start = C + 4096 * (round % 40);
      const all = Uint32Array.from({ length: 1 + (round % 64) }, () => {
        const pick = Math.random();
        return pick < 0.2 ? 0 : pick < 0.5 ? C : 1 + Math.floor(Math.random() * (C - C / 16));
      });
      const { offsets, lengthBytes } = placeClusters(start, all, C);
      const places = [...all.entries()]
        .filter(([, size]) => size > 0)
        .map(([i, size]) => [offsets[i]!, offsets[i]! + size] as const);
      places.sort((a, b) => a[0] - b[0]);
      let end = start;
      for (const [from, to] of places) {
        expect(from).toBeGreaterThanOrEqual(end);
        end = to;
      }
      expect(lengthBytes % 4096).toBe(0);
      expect(end).toBeLessThanOrEqual(start + lengthBytes);
      expect(start + lengthBytes - end).toBeLessThan(4096);
      for (const [i, size] of all.entries()) if (size === C) expect(offsets[i]! % C).toBe(0);
    }
  });
});

describe('FileSpace', () => {
  it('keeps the first cluster for the header and appends', () => {
    const space = new FileSpace(C);
    expect(space.place(sizes(C, C))).toMatchObject({ offset: C, lengthBytes: 2 * C });
    expect(space.place(sizes(300))).toMatchObject({ offset: 3 * C, lengthBytes: 4096 });
    expect(space.place(sizes(C))).toMatchObject({ offset: 3 * C + 4096, lengthBytes: 2 * C - 4096 });
    expect(space.align()).toBe(5 * C);
    expect(space.gaps).toEqual([]);
  });

  it('uses what an earlier attempt left open, then goes on behind it', () => {
    const space = new FileSpace(C, [
      { offset: 6 * C, lengthBytes: C },
      { offset: 2 * C, lengthBytes: C },
    ]);
    expect(space.place(sizes(C, C)).offset).toBe(3 * C);
    expect(space.place(sizes(C, C)).offset).toBe(7 * C);
    expect(space.place(sizes(100)).offset).toBe(C);
    expect(space.gaps).toEqual([
      { offset: C + 4096, lengthBytes: C - 4096 },
      { offset: 5 * C, lengthBytes: C },
    ]);
    expect(space.end).toBe(9 * C);
  });

  it('notes the gap that aligning leaves', () => {
    const space = new FileSpace(C);
    space.place(sizes(5000));
    expect(space.align()).toBe(2 * C);
    expect(space.gaps).toEqual([{ offset: C + 8192, lengthBytes: C - 8192 }]);
    expect(space.align()).toBe(2 * C);
  });
});
