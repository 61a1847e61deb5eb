import { describe, expect, it } from 'vitest';
import { joined, overlay, type NbdExtent } from '../../nbd/extents.ts';

describe('overlay', () => {
  it('cuts where any context changes', () => {
    expect(overlay(1000, 100, [Uint32Array.of(30, 0, 70, 1), Uint32Array.of(50, 3, 50, 0)])).toEqual([
      { offset: 1000, lengthBytes: 30, flags: [0, 3] },
      { offset: 1030, lengthBytes: 20, flags: [1, 3] },
      { offset: 1050, lengthBytes: 50, flags: [1, 0] },
    ]);
  });

  it('ends where the shortest context ends', () => {
    expect(overlay(0, 100, [Uint32Array.of(60, 1), Uint32Array.of(10, 0, 20, 2)]).at(-1)).toEqual({
      offset: 10,
      lengthBytes: 20,
      flags: [1, 2],
    });
  });

  it('ignores what reaches past the request', () => {
    expect(overlay(0, 100, [Uint32Array.of(0xffffffff, 1), Uint32Array.of(99, 0, 5000, 2)])).toEqual([
      { offset: 0, lengthBytes: 99, flags: [1, 0] },
      { offset: 99, lengthBytes: 1, flags: [1, 2] },
    ]);
  });

  it('refuses an extent of length 0, which would never end', () => {
    expect(() => overlay(0, 100, [Uint32Array.of(0, 1)])).toThrow('length 0');
    expect(() => overlay(0, 100, [Uint32Array.of(10, 1, 0, 1)])).toThrow('length 0');
  });
});

describe('joined', () => {
  it('merges neighbours with the same flags only', async () => {
    async function* extents(): AsyncGenerator<NbdExtent> {
      yield { offset: 0, lengthBytes: 1, flags: [0, 1] };
      yield { offset: 1, lengthBytes: 2, flags: [0, 1] };
      yield { offset: 3, lengthBytes: 3, flags: [1, 1] };
      yield { offset: 9, lengthBytes: 1, flags: [1, 1] };
    }
    expect(await Array.fromAsync(joined(extents()))).toEqual([
      { offset: 0, lengthBytes: 3, flags: [0, 1] },
      { offset: 3, lengthBytes: 3, flags: [1, 1] },
      { offset: 9, lengthBytes: 1, flags: [1, 1] },
    ]);
  });
});
