import { describe, expect, it } from 'vitest';
import { SharedRoom } from '../../gateway/shared-room.ts';

describe('SharedRoom', () => {
  it('gives out all of its memory, never the same twice, and takes it back in any order', () => {
    const room = new SharedRoom(256 * 1024);
    for (let round = 0; round < 20; round += 1) {
      const taken: Uint8Array[] = [];
      for (let bytes = room.take(10_000 + 700 * round); bytes; bytes = room.take(10_000 + 700 * round))
        taken.push(bytes);
      for (const [index, bytes] of taken.entries()) bytes.fill(index);
      for (const [index, bytes] of taken.entries()) expect(bytes.every((byte) => byte === index)).toBe(true);
      taken.sort((a, b) => ((a.byteOffset * 7919) % 104_729) - ((b.byteOffset * 7919) % 104_729));
      for (const bytes of taken) room.giveBack(bytes);
    }
    expect(room.take(256 * 1024)?.length).toBe(256 * 1024);
    expect(room.take(1)).toBeUndefined();
  });

  it('gives memory that begins at a page, as reads past the page cache want it', () => {
    const room = new SharedRoom(64 * 1024);
    room.take(1);
    expect((room.take(5000)?.byteOffset ?? 1) % 4096).toBe(0);
  });
});
