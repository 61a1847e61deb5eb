import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { BlobStore } from '../../repository/blob-store.ts';
import { createDirectoryStore } from '../../repository/directory-store.ts';
import { initRepository } from '../../repository/identity.ts';
import { encodeSums, parseSums, readSums, writeSums } from '../../repository/sums.ts';
import { REPOSITORY_ID } from '../support/blob-store-suite.ts';

const A = 'a'.repeat(64);
const B = 'b'.repeat(64);
const SEGMENTS = [
  { offset: 0, lengthBytes: 4096, sha256: A },
  { offset: 4096, lengthBytes: 10, sha256: B },
];
const TEXT = `${A}  0  4096\n${B}  4096  10\n`;

describe('sums', () => {
  let root: string;
  let store: BlobStore;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'holdfast-sums-'));
    store = createDirectoryStore(root);
    await initRepository(store, { id: REPOSITORY_ID });
  });
  afterEach(() => rm(root, { recursive: true, force: true }));

  it('are lines of hash, offset and length', () => {
    expect(encodeSums(SEGMENTS).toString()).toBe(TEXT);
    expect(parseSums('x.sums', Buffer.from(TEXT), 4106)).toEqual(SEGMENTS);
    expect(parseSums('x.sums', encodeSums([]), 0)).toEqual([]);
  });

  it('are not written with a gap, an overlap or a bad number', () => {
    const [first, second] = SEGMENTS as [(typeof SEGMENTS)[0], (typeof SEGMENTS)[0]];
    expect(() => encodeSums([second])).toThrow(RangeError);
    expect(() => encodeSums([first, { ...second, offset: 4095 }])).toThrow(RangeError);
    expect(() => encodeSums([{ ...first, lengthBytes: 0 }])).toThrow(RangeError);
    expect(() => encodeSums([{ ...first, lengthBytes: 1.5 }])).toThrow(RangeError);
    expect(() => encodeSums([{ ...first, sha256: 'A'.repeat(64) }])).toThrow(RangeError);
  });

  it.each([
    ['cut off', TEXT.slice(0, -1), 4106],
    ['cut off at a line', TEXT.slice(0, TEXT.indexOf('\n') + 1), 4106],
    ['for a shorter file', TEXT, 4105],
    ['for a longer file', TEXT, 4107],
    ['with carriage returns', TEXT.replaceAll('\n', '\r\n'), 4106],
    ['with one space', TEXT.replaceAll('  ', ' '), 4106],
    ['with a number in another form', TEXT.replace('  4096\n', '  0x1000\n'), 4106],
    ['with a leading zero', TEXT.replace('  4096\n', '  04096\n'), 4106],
    ['with an empty line', `\n${TEXT}`, 4106],
    ['with a segment of no bytes', `${A}  0  0\n${TEXT}`, 4106],
    ['with a length past 2^53', `${A}  0  9999999999999999\n`, Number.MAX_SAFE_INTEGER],
    ['with a negative offset', `${A}  -1  4106\n`, 4106],
    ['out of order', TEXT.split('\n').slice(0, 2).toReversed().join('\n') + '\n', 4106],
  ])('are refused %s', (_, text, storedBytes) => {
    expect(() => parseSums('x.sums', Buffer.from(text), storedBytes)).toThrow(/^x\.sums: /);
  });

  it('are proved by the hash in the manifest', async () => {
    const file = 'vm/disk-0/full.qcow2';
    const stored = { file, storedBytes: 4106, sums: await writeSums(store, file, SEGMENTS) };
    expect(stored.sums).toMatchObject({ file: `${file}.sums`, segments: 2 });
    expect(await readSums(store, stored)).toEqual(SEGMENTS);

    await store.putBlob(stored.sums.file, Buffer.from(TEXT.replace('a', 'c')), { replace: true });
    await expect(readSums(store, stored)).rejects.toMatchObject({ code: 'invalid', file: stored.sums.file });
    await store.putBlob(stored.sums.file, Buffer.alloc(100_000), { replace: true });
    await expect(readSums(store, stored)).rejects.toMatchObject({ code: 'invalid', file: stored.sums.file });
    await store.deleteBlob(stored.sums.file);
    await expect(readSums(store, stored)).rejects.toThrow('vm/disk-0/full.qcow2.sums: is missing');
  });
});
