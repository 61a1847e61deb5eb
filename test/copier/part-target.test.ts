import { createHash } from 'node:crypto';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { CopyNotes } from '../../copier/copy-target.ts';
import { NO_NOTES } from '../../copier/copy-target.ts';
import { PLAIN_FORM, sealedForm, type FileForm } from '../../copier/file-form.ts';
import { Journal, type FinishedFile, type StoredSegment } from '../../copier/journal.ts';
import { PartBuffers } from '../../copier/part-buffers.ts';
import { PartTarget } from '../../copier/part-target.ts';
import { placeClusters } from '../../copier/place-clusters.ts';
import { FakePartSink } from '../support/fake-part-sink.ts';
import { tempDir } from '../support/temp.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const CLUSTER = 256 * KIB;
const { signal } = new AbortController();
const IDENTITY = {
  mapSha256: 'a'.repeat(64),
  clusterBytes: CLUSTER,
  compression: 'zstd',
  backingFileName: null,
  sink: 'parts upload-1',
  bootId: 'boot',
} as const;
const KEY = { head: Buffer.alloc(184, 'h'), payloadKey: Buffer.alloc(32, 'k') };
const FORMS: [string, FileForm][] = [
  ['plain', PLAIN_FORM],
  ['encrypted', sealedForm(KEY)],
];

/** Sizes as of a disk that compresses here and there, the same each time; the fourth segment is all zeroes. */
const sizesOf = (index: number): Uint32Array =>
  Uint32Array.from({ length: 16 }, (_, i) => {
    if (index === 3) return 0;
    return (i + index) % 3 === 0 ? CLUSTER : (index * 7919 + i * 104_729) % (CLUSTER / 2);
  });

/** What a thread makes of a segment: as many bytes as its place says, of its own kind. */
function contentOf(index: number, offset: number, form: FileForm): { plain: Buffer; sizes: Uint32Array } {
  const sizes = sizesOf(index);
  const { lengthBytes } = placeClusters(offset, sizes, CLUSTER, form.alignBytes);
  return { plain: Buffer.alloc(lengthBytes, `segment ${index} `), sizes };
}

interface Attempt {
  journalPath: string;
  sink: FakePartSink;
  form: FileForm;
  segments: number;
  /** Told of each thing that changes what a later attempt finds. */
  onEvent?: () => void;
  buffers?: PartBuffers;
  lanes?: number;
}

/** One attempt at a copy, with tasks that end in another order than they begin. */
async function copy({
  journalPath,
  sink,
  form,
  segments,
  onEvent = () => undefined,
  buffers = new PartBuffers(),
  lanes = 4,
}: Attempt): Promise<{ finished: FinishedFile; stored: Map<number, StoredSegment>; resumed: number }> {
  const stored = new Map<number, StoredSegment>();
  using journal = await Journal.open(journalPath, IDENTITY, (segment) => stored.set(segment.index, segment));
  journal.resumeParts();
  const notes = Object.fromEntries(
    (Object.keys(NO_NOTES) as (keyof CopyNotes)[]).map((name) => [
      name,
      (note: never) => {
        journal[name](note);
        onEvent();
      },
    ]),
  ) as unknown as CopyNotes;
  const settled: StoredSegment[] = [];
  for (const segment of [...journal.placed.values()].sort((a, b) => a.offset - b.offset)) {
    const part = journal.closedParts.find((each) => segment.offset < each.offset + each.lengthBytes);
    if (part && journal.storedParts.has(part.number)) stored.set(segment.index, segment);
    else settled.push(segment);
  }
  const resumed = stored.size;
  await using target = await PartTarget.open({
    sink,
    form,
    clusterBytes: CLUSTER,
    expectedBytes: segments * 4 * MIB,
    buffers,
    notes,
    signal,
    earlier: journal,
  });
  const unstored = [
    ...settled.map((segment) => ({ index: segment.index, earlier: segment })),
    ...Array.from({ length: segments }, (_, index) => ({ index, earlier: undefined })).filter(
      ({ index }) => !stored.has(index) && settled.every((segment) => segment.index !== index),
    ),
  ].values();
  async function lane(number: number): Promise<void> {
    for (const { index, earlier } of unstored) {
      const sizes = sizesOf(index);
      if (sizes.every((size) => size === 0)) {
        const none = { index, offset: 0, lengthBytes: 0, sha256: Buffer.alloc(32), readBytes: 1, sizes };
        target.segmentDone(none);
        stored.set(index, none);
        continue;
      }
      const { offset, memory } = earlier ? await target.placeAgain(earlier) : await target.place(sizes);
      const { plain } = contentOf(index, offset, form);
      const room = Buffer.from(memory!.buffer, memory!.at, form.sealedLength(plain.length));
      for (let turn = 0; turn < ((index * 5 + number * 3) % 7) * 3; turn += 1) await Promise.resolve();
      const bytes = form.seal(plain, { plainOffset: offset, isEnd: false }, room);
      if (bytes === plain) plain.copy(room);
      const sha256 = createHash('sha256').update(room).digest();
      if (earlier) expect([offset, sha256]).toEqual([earlier.offset, earlier.sha256]);
      const segment = { index, offset, lengthBytes: plain.length, sha256, readBytes: 1, sizes };
      target.segmentDone(segment);
      stored.set(index, segment);
    }
  }
  await Promise.all(Array.from({ length: lanes }, (_, number) => lane(number)));
  const tailOffset = await target.endData();
  expect(tailOffset % CLUSTER).toBe(0);
  await target.append(Buffer.alloc(4 * MIB, `tables at ${tailOffset} `), false);
  await target.append(Buffer.alloc(2 * CLUSTER, 'more tables '), true);
  const finished = await target.finish(Buffer.alloc(CLUSTER, `header for ${tailOffset} `));
  journal.fileFinished(finished);
  return { finished, stored, resumed };
}

/** Every byte of the object has a sum that it matches, and every segment lies whole where it was placed. */
function expectWhole(sink: FakePartSink, form: FileForm, { finished, stored }: Awaited<ReturnType<typeof copy>>): void {
  const object = sink.object(finished.storedBytes);
  const sums = [...stored.values()]
    .filter(({ lengthBytes }) => lengthBytes > 0)
    .map(({ offset, lengthBytes, sha256 }) => ({
      offset: form.storedOffset(offset),
      lengthBytes: form.sealedLength(lengthBytes),
      sha256: sha256.toString('hex'),
    }));
  let end = 0;
  for (const { offset, lengthBytes, sha256 } of [...sums, ...finished.tail].sort((a, b) => a.offset - b.offset)) {
    expect(offset).toBe(end);
    end += lengthBytes;
    expect(createHash('sha256').update(object.subarray(offset, end)).digest('hex')).toBe(sha256);
  }
  expect(end).toBe(object.length);
  expect(stored.size).toBeGreaterThan(3);
}

/** No part was ever sent with two contents: its chunks are sealed with one key. */
function expectOneContentEach(asked: readonly { number: number; bytes: Buffer }[]): void {
  const contents = new Map<number, Buffer>();
  for (const { number, bytes } of asked) {
    const former = contents.get(number);
    if (former) expect(bytes.equals(former)).toBe(true);
    contents.set(number, bytes);
  }
}

describe.each(FORMS)('an upload in parts, %s', (_, form) => {
  it('is whole, with parts of whole segments in the order of the file', async () => {
    await using folder = await tempDir();
    const sink = new FakePartSink();
    const result = await copy({ journalPath: join(folder.path, 'j'), sink, form, segments: 12 });
    expectWhole(sink, form, result);
    expect(sink.asked.at(-1)!.number).toBe(1);
    expect(sink.parts.size).toBeGreaterThan(4);
    expect(new Set(sink.asked.map(({ number }) => number)).size).toBe(sink.asked.length);
  });

  it('of a few bytes is one part', async () => {
    await using folder = await tempDir();
    const sink = new FakePartSink({ minPartBytes: 64 * MIB });
    const result = await copy({ journalPath: join(folder.path, 'j'), sink, form, segments: 5 });
    expectWhole(sink, form, result);
    expect([...sink.parts.keys()]).toEqual([1]);
  });

  it('goes on after a kill at any point, and sends no part with two contents', async () => {
    await using folder = await tempDir();
    const journalPath = join(folder.path, 'j');
    const sink = new FakePartSink();
    const kills: { path: string; parts: Map<number, Buffer>; asked: { number: number; bytes: Buffer }[] }[] = [];
    const kill = (): void => {
      const path = join(folder.path, `killed-${kills.length}`);
      copyFileSync(journalPath, path);
      kills.push({ path, parts: new Map(sink.parts), asked: [...sink.asked] });
    };
    // Parts are stored late and not in order, so that some are under way whenever the copy is killed.
    sink.beforeStored = async (number) => {
      kill();
      for (let turn = 0; turn < (number % 3) * 40; turn += 1) await Promise.resolve();
    };
    await copy({ journalPath, sink, form, segments: 9, onEvent: kill });
    expect(kills.length).toBeGreaterThan(20);
    let resumed = 0;
    // What is sealed is the stricter case: all of them there, every third of the plain ones.
    for (const { path, parts, asked } of kills.filter((_, index) => form.isSealed || index % 3 === 0)) {
      const later = new FakePartSink({ parts });
      const result = await copy({ journalPath: path, sink: later, form, segments: 9 });
      expectWhole(later, form, result);
      expectOneContentEach([...asked, ...later.asked]);
      resumed = Math.max(resumed, result.resumed);
    }
    expect(resumed).toBeGreaterThan(4);
  });

  it.each([1, 2, 3, 4])('goes on after kill upon kill (%i)', async (seed) => {
    await using folder = await tempDir();
    let journalPath = join(folder.path, 'j');
    let parts = new Map<number, Buffer>();
    const asked: { number: number; bytes: Buffer }[] = [];
    for (let attempt = 1; attempt <= 6; attempt += 1) {
      const sink = new FakePartSink({ parts: new Map(parts) });
      let left = attempt === 6 ? Infinity : 3 + ((seed * 31 + attempt * 17) % 14);
      const next = join(folder.path, `j${attempt}`);
      const path = journalPath;
      const event = (): void => {
        if (--left !== 0) return;
        copyFileSync(path, next);
        parts = new Map(sink.parts);
        asked.push(...sink.asked);
      };
      sink.beforeStored = async (number) => {
        event();
        for (let turn = 0; turn < ((number + seed) % 4) * 25; turn += 1) await Promise.resolve();
      };
      const result = await copy({ journalPath: path, sink, form, segments: 8, onEvent: event });
      if (left > 0) {
        expectWhole(sink, form, result);
        expectOneContentEach([...asked, ...sink.asked]);
        if (attempt < 6) break;
      }
      journalPath = next;
    }
  });
});

describe('an upload in parts', () => {
  it('comes to its end with the least memory, beside others', async () => {
    await using folder = await tempDir();
    const buffers = new PartBuffers(0);
    await Promise.all(
      [1, 2, 3].map(async (number) => {
        const sink = new FakePartSink();
        const journalPath = join(folder.path, `j${number}`);
        const result = await copy({ journalPath, sink, form: PLAIN_FORM, segments: 12, buffers });
        expectWhole(sink, PLAIN_FORM, result);
        expect(sink.peak).toBe(1);
      }),
    );
  });

  it('stores several parts at once', async () => {
    await using folder = await tempDir();
    const sink = new FakePartSink();
    sink.beforeStored = async () => {
      for (let turn = 0; turn < 500; turn += 1) await Promise.resolve();
    };
    await copy({ journalPath: join(folder.path, 'j'), sink, form: PLAIN_FORM, segments: 14 });
    expect(sink.peak).toBeGreaterThan(2);
  });

  it('has parts as large as their greatest number demands', async () => {
    await using folder = await tempDir();
    const sink = new FakePartSink({ maxParts: 5 });
    const result = await copy({ journalPath: join(folder.path, 'j'), sink, form: PLAIN_FORM, segments: 20 });
    expectWhole(sink, PLAIN_FORM, result);
    expect(sink.parts.size).toBeLessThanOrEqual(5);
  });

  it('ends with the failure of a part, and goes on in a later attempt', async () => {
    await using folder = await tempDir();
    const journalPath = join(folder.path, 'j');
    const sink = new FakePartSink();
    sink.beforeStored = (number) => (number === 3 ? Promise.reject(new Error('503 Slow Down')) : Promise.resolve());
    await expect(copy({ journalPath, sink, form: PLAIN_FORM, segments: 12 })).rejects.toThrow('503 Slow Down');
    sink.beforeStored = () => Promise.resolve();
    const result = await copy({ journalPath, sink, form: PLAIN_FORM, segments: 12 });
    expectWhole(sink, PLAIN_FORM, result);
    expect(result.resumed).toBeGreaterThan(0);
  });

  it.each<[string, (parts: Map<number, Buffer>) => void]>([
    ['is gone', (parts) => parts.delete(2)],
    ['has another length', (parts) => parts.set(2, Buffer.alloc(MIB))],
  ])('refuses a journal when a part it calls stored %s', async (_, spoil) => {
    await using folder = await tempDir();
    const journalPath = join(folder.path, 'j');
    const sink = new FakePartSink();
    sink.beforeStored = (number) => (number === 4 ? Promise.reject(new Error('cut off')) : Promise.resolve());
    await expect(copy({ journalPath, sink, form: PLAIN_FORM, segments: 12 })).rejects.toThrow('cut off');
    spoil(sink.parts);
    await expect(copy({ journalPath, sink, form: PLAIN_FORM, segments: 12 })).rejects.toMatchObject({
      name: 'CopierError',
      code: 'journal-mismatch',
    });
  });
});
