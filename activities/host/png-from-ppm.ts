import { crc32, deflateSync } from 'node:zlib';

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const MAX_SIDE = 16_384;

/**
 * A binary PPM (`P6`, 8 bits a channel), which QEMU before 7.1 makes of a screen, as PNG.
 * Source: netpbm's ppm(5); PNG specification (W3C, 2003), sections 5 and 9
 * @throws RangeError when it is none
 */
export function pngFromPpm(ppm: Buffer): Buffer {
  const [header = '', width = '', height = ''] =
    /^P6\s+(?:#[^\n]*\n\s*)*(\d{1,5})\s+(\d{1,5})\s+255\s/.exec(ppm.toString('latin1', 0, 200)) ?? [];
  const [columns, rows] = [Number(width), Number(height)];
  const stride = columns * 3;
  if (header === '' || columns < 1 || rows < 1 || columns > MAX_SIDE || rows > MAX_SIDE) {
    throw new RangeError('the picture is no PPM');
  }
  if (ppm.length < header.length + stride * rows) throw new RangeError('the picture is cut off');
  const lines = Buffer.alloc((stride + 1) * rows); // each line begins with its filter: 0 = none
  for (let row = 0; row < rows; row += 1) {
    ppm.copy(lines, row * (stride + 1) + 1, header.length + row * stride, header.length + (row + 1) * stride);
  }
  const size = Buffer.alloc(13);
  size.writeUInt32BE(columns, 0);
  size.writeUInt32BE(rows, 4);
  size.set([8, 2, 0, 0, 0], 8); // 8 bits, RGB, deflate, no filters of its own, not interlaced
  return Buffer.concat([
    SIGNATURE,
    chunk('IHDR', size),
    chunk('IDAT', deflateSync(lines)),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

/** True of what begins like a PNG. */
export const isPng = (image: Buffer): boolean => image.subarray(0, SIGNATURE.length).equals(SIGNATURE);

function chunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  body.copy(framed, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}
