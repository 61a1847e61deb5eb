import { describe, expect, it } from 'vitest';
import { packetBytes, type Packet, PacketReader } from '../../libvirt/packet.ts';
import { MESSAGE_MAX_BYTES, PROGRAM } from '../../libvirt/protocol.ts';

/** CONNECT_OPEN of `qemu:///system` as it goes to libvirtd, serial 3. */
const OPEN = Buffer.from(
  '00000038' + // 56 bytes in all
    '20008086' + // remote program
    '00000001' + // version
    '00000001' + // CONNECT_OPEN
    '00000000' + // a call
    '00000003' + // serial
    '00000000' + // OK
    '00000001' + // a name is given
    '0000000e' + // of 14 bytes
    '71656d753a2f2f2f73797374656d0000' + // and two of padding
    '00000000', // flags
  'hex',
);
const HEADER = { program: PROGRAM.REMOTE, version: 1, procedure: 1, type: 0, serial: 3, status: 0 };

const readAll = (...chunks: Buffer[]): Packet[] => {
  const reader = new PacketReader();
  return chunks.flatMap((chunk) => [...reader.push(chunk)]);
};

describe('packets', () => {
  it('are written as libvirt expects them', () => {
    expect(packetBytes(HEADER, OPEN.subarray(28))).toEqual(OPEN);
  });

  it('are found wherever the stream is split', () => {
    const stream = Buffer.concat([OPEN, OPEN, OPEN]);
    const expected = { header: { length: 56, ...HEADER }, payload: OPEN.subarray(28) };
    for (let first = 0; first <= stream.length; first++) {
      for (const second of [first, Math.min(first + 5, stream.length), stream.length]) {
        const packets = readAll(stream.subarray(0, first), stream.subarray(first, second), stream.subarray(second));
        expect(packets).toEqual([expected, expected, expected]);
      }
    }
  });

  it('are found byte by byte', () => {
    expect(readAll(...Array.from(OPEN, (byte) => Buffer.of(byte)))).toHaveLength(1);
  });

  it.each([0, 27, MESSAGE_MAX_BYTES + 5, 0xffffffff])('of a claimed length of %i are refused', (length) => {
    const bytes = Buffer.from(OPEN);
    bytes.writeUInt32BE(length);
    expect(() => readAll(bytes)).toThrow(/claims a length/);
  });

  it('too long for the daemon are refused before they are sent', () => {
    expect(() => packetBytes(HEADER, Buffer.alloc(MESSAGE_MAX_BYTES))).toThrow(/longer than libvirt takes/);
  });
});
