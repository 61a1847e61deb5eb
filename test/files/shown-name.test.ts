import { describe, expect, it } from 'vitest';
import { isText, shownName } from '../../files/shown-name.ts';

describe('shownName', () => {
  it.each([
    ['plain.txt', 'plain.txt'],
    ['Änne 日本 🙂', 'Änne 日本 🙂'],
    ['two\nlines\ttab\r', 'two\\nlines\\ttab\\r'],
    ['\x1b[31mred\x07\x7f', '\\x1b[31mred\\x07\\x7f'],
    ['\u009b31m', '\\u{9b}31m'],
    ['gpj.\u202eexe', 'gpj.\\u{202e}exe'],
    ['a\\nb', 'a\\\\nb'],
    ['line\u2028end', 'line\\u{2028}end'],
  ])('shows %j as %s', (name, shown) => {
    expect(shownName(Buffer.from(name))).toBe(shown);
  });

  it('shows bytes that are no text by their numbers', () => {
    expect(shownName(Buffer.from([0x61, 0xff, 0xc3, 0x62, 0xf0, 0x9f]))).toBe('a\\xff\\xc3b\\xf0\\x9f');
  });
});

it('tells whether bytes are text', () => {
  expect(isText(Buffer.from('Änne'))).toBe(true);
  expect(isText(Buffer.from([0x61, 0xff]))).toBe(false);
});
