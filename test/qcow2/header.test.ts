import { describe, expect, it } from 'vitest';
import { encodeHeader } from '../../qcow2/header.ts';

const tables = {
  l1Offset: 0x30000,
  l1Entries: 16,
  refcountTableOffset: 0x1_0000_0000,
  refcountTableClusters: 1,
  endOffset: 0x1_0001_0000,
};

describe('encodeHeader', () => {
  it('writes the words of version 3 where the specification has them', () => {
    const header = encodeHeader({ clusterBits: 16, virtualSizeBytes: 0x2_0000_0200, compression: 'none', tables });
    expect(header.length).toBe(65_536);
    const words = [
      '514649fb', '00000003', '0000000000000000', '00000000', // magic, version, backing file offset and length
      '00000010', '0000000200000200', '00000000', '00000010', // cluster bits, size, encryption, L1 entries
      '0000000000030000', '0000000100000000', '00000001', '00000000', '0000000000000000', // L1, refcounts, snapshots
      '0000000000000000', '0000000000000000', '0000000000000000', // features
      '00000004', '00000070', '00', '00000000000000', // refcount order, header length, compression type
      '00000000', '00000000', // end of extensions
    ]; // prettier-ignore
    expect(header.toString('hex', 0, 120)).toBe(words.join(''));
    expect(header.subarray(120).equals(Buffer.alloc(65_536 - 120))).toBe(true);
  });

  it('says zstd by type, feature bit and name', () => {
    const header = encodeHeader({ clusterBits: 16, virtualSizeBytes: 0, compression: 'zstd', tables });
    expect(header.readBigUInt64BE(72)).toBe(8n);
    expect(header[104]).toBe(1);
    expect(header.readUInt32BE(112)).toBe(0x6803f857);
    expect(header.readUInt32BE(116)).toBe(48);
    expect([header[120], header[121]]).toEqual([0, 3]);
    expect(header.toString('latin1', 122, 138)).toBe('compression type');
    expect(header.readBigUInt64BE(168)).toBe(0n);
  });

  it('names the backing file and its format', () => {
    const backing = { fileName: 'full-20261121-120000.qcow2', format: 'qcow2' } as const;
    const header = encodeHeader({ clusterBits: 16, virtualSizeBytes: 0, compression: 'none', backing, tables });
    expect(header.readUInt32BE(112)).toBe(0xe2792aca);
    expect(header.readUInt32BE(116)).toBe(5);
    expect(header.toString('latin1', 120, 128)).toBe('qcow2\0\0\0');
    const offset = Number(header.readBigUInt64BE(8));
    expect(offset).toBe(136);
    expect(header.toString('utf8', offset, offset + header.readUInt32BE(16))).toBe(backing.fileName);
  });

  it('refuses a backing file name that the format cannot hold', () => {
    const withName = (fileName: string, clusterBits: number) => () =>
      encodeHeader({
        clusterBits,
        virtualSizeBytes: 0,
        compression: 'none',
        backing: { fileName, format: 'qcow2' },
        tables,
      });
    expect(withName('x'.repeat(1023), 16)).not.toThrow();
    expect(withName('x'.repeat(1024), 16)).toThrow('1024 bytes is too long');
    expect(withName('x'.repeat(400), 9)).toThrow('too long');
  });
});
