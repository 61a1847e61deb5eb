import { describe, expect, it } from 'vitest';
import { push } from '../../nbd/channel.ts';
import { ReplyReader } from '../../nbd/replies.ts';
import { chunk, dataChunk, errorChunk, holeChunk, noneChunk, simple, statusChunk } from './fake-nbd-server.ts';
import { nbdkit, nbdkitSimple, qemu } from './recordings.ts';

const A = { cookie: 1 };
const B = { cookie: 2 };
const text = (content: string) => Buffer.from(content);

/** Feeds pieces; what the reader throws becomes its loss, as in a channel. */
function feed(replies: ReplyReader, ...pieces: Buffer[]): void {
  try {
    for (const piece of pieces) push(replies, piece);
  } catch (error) {
    replies.lost(error as Error);
  }
}

describe('ReplyReader', () => {
  it.each([
    ['QEMU', qemu, 16, `${'A'.repeat(16)}${'\0'.repeat(8)}`],
    ['nbdkit', nbdkit, 24, '\0'.repeat(24)],
  ])('understands what %s sent when it is cut at any place', async (_, recorded, dataBytes, content) => {
    const all = Buffer.concat([recorded.extents, recorded.read, recorded.error]);
    for (let cut = 0; cut < all.length; cut++) {
      const replies = new ReplyReader();
      const into = Buffer.alloc(24, 0xee);
      const status = replies.expectStatus(1);
      const read = replies.expectRead(2, 131_056, into);
      const failed = replies.expectRead(3, 1_048_571, Buffer.alloc(24)).catch((error: unknown) => error);
      feed(replies, all.subarray(0, cut), all.subarray(cut));
      expect((await status).size).toBeGreaterThan(0);
      expect(await read).toBe(dataBytes);
      expect(into.toString('latin1')).toBe(content);
      expect(await failed).toMatchObject({ name: 'NbdError', code: 'EINVAL', errno: 22 });
      expect(replies.pending).toBe(0);
    }
  });

  it('understands simple replies, cut at any place', async () => {
    const all = Buffer.concat([nbdkitSimple.read, nbdkitSimple.error]);
    for (let cut = 0; cut < all.length; cut++) {
      const replies = new ReplyReader();
      const into = Buffer.alloc(24, 0xee);
      const read = replies.expectRead(1, 0, into);
      const failed = replies.expectRead(2, 0, Buffer.alloc(24)).catch((error: unknown) => error);
      feed(replies, all.subarray(0, cut), all.subarray(cut));
      expect(await read).toBe(24);
      expect(into).toEqual(Buffer.alloc(24));
      expect(await failed).toMatchObject({ code: 'EINVAL' });
    }
  });

  it('repeats what QEMU said of a dirty bitmap', async () => {
    const replies = new ReplyReader();
    const status = replies.expectStatus(1);
    feed(replies, qemu.extents);
    expect(await status).toEqual(
      new Map([
        [0, Uint32Array.of(131072, 0, 65536, 3, 4096, 0, 61440, 2, 786432, 3)],
        [2, Uint32Array.of(196608, 0, 65536, 1, 786432, 0)],
      ]),
    );
  });

  it('reads straight into the memory of the caller', () => {
    const replies = new ReplyReader();
    const memory = Buffer.alloc(4096);
    void replies.expectRead(1, 0, memory.subarray(512, 512 + 64));
    push(replies, dataChunk(A, 0, Buffer.alloc(64)).subarray(0, 28));
    const target = replies.target();
    expect(target.buffer).toBe(memory.buffer);
    expect([target.byteOffset - memory.byteOffset, target.length]).toEqual([512, 64]);
  });

  it('accepts chunks out of order and answers out of order', async () => {
    const replies = new ReplyReader();
    const first = Buffer.alloc(6);
    const second = Buffer.alloc(4);
    const reads = [replies.expectRead(1, 100, first), replies.expectRead(2, 200, second)];
    feed(
      replies,
      dataChunk(A, 104, text('ef')),
      dataChunk(B, 200, text('wxyz'), true),
      holeChunk(A, 102, 2),
      dataChunk(A, 100, text('ab')),
      noneChunk(A),
    );
    expect(await Promise.all(reads)).toEqual([4, 4]);
    expect(first.toString('latin1')).toBe('ab\0\0ef');
    expect(second.toString()).toBe('wxyz');
  });

  it('reports an error only when the reply is complete, and with what the server said', async () => {
    const replies = new ReplyReader();
    const read = replies.expectRead(1, 0, Buffer.alloc(4));
    let isSettled = false;
    void read.catch(() => (isSettled = true));
    feed(
      replies,
      chunk(
        A,
        0x8002,
        Buffer.from('00000005000400000000000000000000', 'hex').fill('oops', 6, 10).subarray(0, 18),
        false,
      ),
    );
    await Promise.resolve();
    expect(isSettled).toBe(false);
    feed(replies, noneChunk(A));
    await expect(read).rejects.toThrow('NBD read of 4 bytes at 0 failed (oops): EIO');
  });

  it('knows ESHUTDOWN and keeps numbers it does not know', async () => {
    const replies = new ReplyReader();
    const reads = [replies.expectRead(1, 0, Buffer.alloc(1)), replies.expectRead(2, 0, Buffer.alloc(1))];
    feed(replies, errorChunk(A, 108), simple(B, undefined, 999));
    const outcomes = await Promise.allSettled(reads);
    expect(outcomes.map((outcome) => (outcome as PromiseRejectedResult).reason as unknown)).toMatchObject([
      { code: 'ESHUTDOWN', errno: 108 },
      { code: 'E999', errno: 999 },
    ]);
  });

  it.each<[string, Buffer[]]>([
    ['bytes that are no reply', [text('HTTP/1.1 400 Bad Request\r\n')]],
    ['an answer to a command never sent', [noneChunk({ cookie: 9 })]],
    ['data before its read', [dataChunk(A, 99, text('x'))]],
    ['data behind its read', [dataChunk(A, 103, text('xy'))]],
    ['more data than was asked for', [dataChunk(A, 100, text('abcde'))]],
    ['the same data twice', [dataChunk(A, 100, text('ab')), dataChunk(A, 100, text('ab'), true)]],
    ['overlapping data of the right length', [dataChunk(A, 100, text('abc')), dataChunk(A, 102, text('d'), true)]],
    ['too little data', [dataChunk(A, 100, text('abc'), true)]],
    ['no data at all', [noneChunk(A)]],
    ['an empty data chunk', [dataChunk(A, 100, text(''))]],
    ['a data chunk without an offset', [chunk(A, 1, Buffer.alloc(0), true, 3), Buffer.alloc(8)]],
    ['a hole behind its read', [holeChunk(A, 100, 5)]],
    ['a hole of length 0', [holeChunk(A, 100, 0)]],
    ['a hole of the wrong size', [chunk(A, 2, Buffer.alloc(13), false)]],
    ['a NONE chunk with a payload', [chunk(A, 0, Buffer.alloc(4), true)]],
    ['a NONE chunk that is not the last', [chunk(A, 0, Buffer.alloc(0), false)]],
    ['an error without a number', [errorChunk(A, 0)]],
    ['a giant error message', [chunk(A, 0x8001, Buffer.alloc(0), true, 0x7fffffff)]],
    ['block status in answer to a read', [statusChunk(A, 1, [1, 0])]],
    ['a chunk of an unknown type', [chunk(A, 77, Buffer.alloc(0), true)]],
    ['data in answer to block status', [dataChunk(B, 0, text('x'))]],
    ['giant block status', [chunk(B, 5, Buffer.alloc(0), true, 0xffffffff)]],
    ['block status of a broken length', [chunk(B, 5, Buffer.alloc(14), true)]],
    ['block status of one context twice', [statusChunk(B, 1, [1, 0], false), statusChunk(B, 1, [1, 0])]],
    ['a simple reply to block status', [simple(B)]],
  ])('gives the connection up on %s', async (_, pieces) => {
    const replies = new ReplyReader();
    const read = replies.expectRead(1, 100, Buffer.alloc(4)).catch((error: unknown) => error);
    const status = replies.expectStatus(2).catch((error: unknown) => error);
    const other = replies.expectRead(3, 0, Buffer.alloc(4)).catch((error: unknown) => error);
    feed(replies, ...pieces);
    expect(await other).toMatchObject({ name: 'NbdProtocolError' });
    expect(await read).toMatchObject({ name: 'NbdProtocolError' });
    expect(await status).toMatchObject({ name: 'NbdProtocolError' });
  });

  it('fails commands that come after the loss', async () => {
    const replies = new ReplyReader();
    replies.lost(new Error('gone'));
    await expect(replies.expectRead(1, 0, Buffer.alloc(1))).rejects.toThrow('gone');
  });
});
