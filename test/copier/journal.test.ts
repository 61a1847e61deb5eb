import { appendFileSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Journal, type JournalIdentity, type StoredSegment } from '../../copier/journal.ts';
import { tempDir } from '../support/temp.ts';

const identity: JournalIdentity = {
  mapSha256: 'a'.repeat(64),
  clusterBytes: 65_536,
  compression: 'zstd',
  backingFileName: null,
  sink: 'file 1:2:3',
  bootId: 'boot',
};
const segment = (index: number): StoredSegment => ({
  index,
  offset: 2 ** 45 + index * 65_536,
  lengthBytes: 65_536,
  sha256: Buffer.alloc(32, index),
  readBytes: 100,
  sizes: Uint32Array.of(65_536, 0, index),
});

async function read(path: string, of = identity) {
  const stored: StoredSegment[] = [];
  using journal = await Journal.open(path, of, (one) => stored.push(one));
  return { stored, readBytes: journal.readBytes, finished: journal.finished };
}

describe('Journal', () => {
  it('tells the next attempt what is stored and what has been read', async () => {
    await using folder = await tempDir();
    const path = join(folder.path, 'new', 'journal');
    {
      using journal = await Journal.open(path, identity, () => undefined);
      journal.opened(0, 120);
      journal.opened(1, 120);
      journal.segmentStored(segment(1));
      journal.opened(2, 120);
    }
    expect(await read(path)).toEqual({ stored: [segment(1)], readBytes: 120 + 100 + 120, finished: undefined });
    {
      using journal = await Journal.open(path, identity, () => undefined);
      journal.opened(0, 120);
      journal.segmentStored(segment(0));
      journal.fileFinished({ storedBytes: 77, tail: [{ offset: 0, lengthBytes: 7, sha256: 'ff' }] });
    }
    expect(await read(path)).toEqual({
      stored: [segment(1), segment(0)],
      readBytes: 120 + 100 + 120 + 100,
      finished: { storedBytes: 77, tail: [{ offset: 0, lengthBytes: 7, sha256: 'ff' }] },
    });
  });

  it('goes on after being torn at any byte', async () => {
    await using folder = await tempDir();
    const path = join(folder.path, 'journal');
    const ends: number[] = [];
    {
      using journal = await Journal.open(path, identity, () => undefined);
      for (let index = 0; index < 4; index++) {
        ends.push(readFileSync(path).length);
        journal.segmentStored(segment(index));
      }
    }
    const whole = readFileSync(path);
    for (let length = 0; length < whole.length; length++) {
      writeFileSync(path, whole.subarray(0, length));
      const { stored } = await read(path);
      expect(stored.length).toBe(Math.max(0, ends.filter((end) => end <= length).length - 1));
      using journal = await Journal.open(path, identity, () => undefined);
      journal.segmentStored(segment(9));
      expect((await read(path)).stored.at(-1)).toEqual(segment(9));
    }
  });

  it('ignores what follows a damaged record', async () => {
    await using folder = await tempDir();
    const path = join(folder.path, 'journal');
    {
      using journal = await Journal.open(path, identity, () => undefined);
      journal.segmentStored(segment(0));
    }
    const before = readFileSync(path).length;
    {
      using journal = await Journal.open(path, identity, () => undefined);
      journal.segmentStored(segment(1));
      journal.segmentStored(segment(2));
    }
    const bytes = readFileSync(path);
    bytes[before + 30]! ^= 1;
    writeFileSync(path, bytes);
    expect((await read(path)).stored).toEqual([segment(0)]);
    expect(readFileSync(path).length).toBe(before);
  });

  it('begins anew over garbage and over an empty file', async () => {
    await using folder = await tempDir();
    const path = join(folder.path, 'journal');
    writeFileSync(path, '');
    expect((await read(path)).stored).toEqual([]);
    truncateSync(path);
    appendFileSync(path, Buffer.alloc(5000, 0xff));
    expect((await read(path)).stored).toEqual([]);
  });

  it.each<[string, Partial<JournalIdentity>]>([
    ['another map', { mapSha256: 'b'.repeat(64) }],
    ['another cluster size', { clusterBytes: 262_144 }],
    ['another compression', { compression: 'none' }],
    ['another parent', { backingFileName: 'full.qcow2' }],
    ['another file', { sink: 'file 1:3:3' }],
    ['another boot of the host', { bootId: 'later' }],
  ])('refuses a journal of %s', async (_, difference) => {
    await using folder = await tempDir();
    const path = join(folder.path, 'journal');
    await read(path);
    await expect(read(path, { ...identity, ...difference })).rejects.toMatchObject({
      name: 'CopierError',
      code: 'journal-mismatch',
      file: path,
    });
    expect(await read(path)).toMatchObject({ stored: [] });
  });

  it('reads a journal longer than its buffer', async () => {
    await using folder = await tempDir();
    const path = join(folder.path, 'journal');
    const sizes = new Uint32Array(64).fill(65_536);
    {
      using journal = await Journal.open(path, identity, () => undefined);
      for (let index = 0; index < 8000; index++) journal.segmentStored({ ...segment(index), sizes });
    }
    const { stored } = await read(path);
    expect(stored.map(({ index }) => index)).toEqual([...Array(8000).keys()]);
  });
});
