import { describe, expect, it } from 'vitest';
import {
  array,
  charArray,
  type Codec,
  double,
  encode,
  flag,
  hyper,
  int,
  optional,
  string,
  struct,
  uhyper,
  uint,
  uuid,
  XdrError,
  XdrReader,
} from '../../libvirt/xdr.ts';

const UUID = '6f1c1e0e-57a4-4d55-9c0c-0e5a1b1c2d3e';

/** Values and their bytes, worked out by hand from RFC 4506. */
const CASES: [name: string, codec: Codec<never>, value: unknown, hex: string][] = [
  ['int', int as Codec<never>, -2, 'fffffffe'],
  ['uint', uint as Codec<never>, 0xfffffffe, 'fffffffe'],
  ['hyper', hyper as Codec<never>, -2n, 'fffffffffffffffe'],
  ['uhyper', uhyper as Codec<never>, 0xfffffffffffffffen, 'fffffffffffffffe'],
  ['double', double as Codec<never>, 1.5, '3ff8000000000000'],
  ['flag', flag as Codec<never>, true, '00000001'],
  ['string without padding', string as Codec<never>, 'abcd', '0000000461626364'],
  ['string with padding', string as Codec<never>, 'ä€', '00000005c3a4e282ac000000'],
  ['empty string', string as Codec<never>, '', '00000000'],
  ['char array', charArray(4) as Codec<never>, 'x86', '00000078000000380000003600000000'],
  ['uuid', uuid as Codec<never>, UUID, '6f1c1e0e57a44d559c0c0e5a1b1c2d3e'],
  ['optional, absent', optional(int) as Codec<never>, null, '00000000'],
  ['optional, present', optional(int) as Codec<never>, 7, '0000000100000007'],
  ['array', array(string, 3) as Codec<never>, ['a', 'bc'], '0000000200000001610000000000000262630000'],
  ['struct', struct({ id: int, name: string }) as Codec<never>, { id: 1, name: 'a' }, '000000010000000161000000'],
];

describe('XDR', () => {
  it.each(CASES)('writes and reads %s', (_, codec, value, hex) => {
    const bytes = encode(codec, value as never);
    expect(bytes.toString('hex')).toBe(hex);
    const reader = new XdrReader(bytes);
    expect(codec.read(reader)).toEqual(value);
    expect(reader.remaining).toBe(0);
  });

  it.each(CASES)('refuses %s that is cut off anywhere', (_, codec, value) => {
    const bytes = encode(codec, value as never);
    for (let length = 0; length < bytes.length; length++) {
      expect(() => codec.read(new XdrReader(bytes.subarray(0, length)))).toThrow(XdrError);
    }
  });

  it('refuses a text with a NUL, which libvirt would cut off there', () => {
    expect(() => encode(string, 'web\u0000-1')).toThrow(/NUL/);
  });

  it('refuses a text longer than 4 MiB before it is sent', () => {
    expect(() => encode(string, 'x'.repeat(0x400001))).toThrow(/longer than libvirt takes/);
    expect(encode(string, 'x'.repeat(0x400000))).toHaveLength(0x400004);
  });

  it('refuses lengths the protocol does not allow instead of reserving memory for them', () => {
    expect(() => string.read(new XdrReader(Buffer.from('ffffffff', 'hex')))).toThrow(XdrError);
    expect(() => array(int, 5).read(new XdrReader(Buffer.from('ffffffff', 'hex')))).toThrow(XdrError);
    expect(() => encode(array(int, 1), [1, 2])).toThrow(XdrError);
  });

  it('refuses what is not a UUID', () => {
    expect(() => encode(uuid, 'web-1')).toThrow(/not a UUID/);
  });
});
