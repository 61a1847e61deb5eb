import { inflateSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { isPng, pngFromPpm } from '../../activities/host/png-from-ppm.ts';

const PIXELS = Buffer.from([255, 0, 0, 0, 255, 0, 0, 0, 255, 1, 2, 3]);
const ppm = (header: string): Buffer => Buffer.concat([Buffer.from(header), PIXELS]);

describe('a picture in PPM', () => {
  it.each(['P6\n2 2\n255\n', 'P6 2 2 255\n', 'P6\n# by QEMU\n2 2\n255\n'])('becomes a PNG: %j', (header) => {
    const png = pngFromPpm(ppm(header));
    expect(isPng(png)).toBe(true);
    expect(png.subarray(12, 29).toString('latin1')).toBe('IHDR\0\0\0\x02\0\0\0\x02\x08\x02\0\0\0');
    const start = png.indexOf('IDAT') + 4;
    const lines = inflateSync(png.subarray(start, start + png.readUInt32BE(start - 8)));
    expect(lines).toEqual(Buffer.concat([Buffer.of(0), PIXELS.subarray(0, 6), Buffer.of(0), PIXELS.subarray(6)]));
    expect(png.subarray(-12).toString('hex')).toBe('0000000049454e44ae426082');
  });

  it.each(['P5\n2 2\n255\n', 'P6\n2 3\n255\n', 'P6\n0 2\n255\n', 'P6\n99999 99999\n255\n', ''])(
    'is refused: %j',
    (header) => {
      expect(() => pngFromPpm(ppm(header))).toThrow(RangeError);
    },
  );
});
