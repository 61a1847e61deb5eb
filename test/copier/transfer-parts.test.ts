import { describe, expect, it } from 'vitest';
import { cutParts } from '../../copier/transfer-parts.ts';

const MIB = 1024 * 1024;
const LIMITS = { blobKey: 'vm/disk-0/full.qcow2', minPartBytes: 5 * MIB, maxPartBytes: 100 * MIB, maxParts: 10_000 };

const segmentsOf = (...lengths: number[]) => {
  let offset = 0;
  return lengths.map((lengthBytes) => {
    const segment = { offset, lengthBytes, sha256: '' };
    offset += lengthBytes;
    return segment;
  });
};
const cut = (lengths: number[], limits: Partial<typeof LIMITS> = {}) =>
  cutParts(segmentsOf(...lengths), { ...LIMITS, ...limits }).map(({ number, offset, lengthBytes }) => [
    number,
    offset / MIB,
    lengthBytes / MIB,
  ]);

describe('cutParts', () => {
  it('makes parts of whole segments in a row, only the last shorter than the least', () => {
    expect(cut([4 * MIB, 4 * MIB, 3 * MIB, 6 * MIB, MIB])).toEqual([
      [1, 0, 8],
      [2, 8, 9],
      [3, 17, 1],
    ]);
  });

  it('takes longer parts where there would be too many', () => {
    expect(
      cut(
        Array.from({ length: 12 }, () => 4 * MIB),
        { maxParts: 2 },
      ),
    ).toEqual([
      [1, 0, 24],
      [2, 24, 24],
    ]);
  });

  it('refuses a file that is too long for an upload', () => {
    expect(() =>
      cut(
        Array.from({ length: 60 }, () => 4 * MIB),
        { maxParts: 2 },
      ),
    ).toThrow('more than an upload takes');
  });
});
