import { mkdtemp, rm, stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectNbd, listNbdExports, type NbdConnection } from '../../nbd/connection.ts';
import type { NbdExtent } from '../../nbd/extents.ts';
import { encodeOption, encodeRequest, encodeString } from '../../nbd/protocol.ts';
import { listenNbd, type ServedDisk } from '../../nbd/server.ts';

const SIZE = 8 * 1024 * 1024;
const HOLE = { from: 2 * 1024 * 1024, to: 4 * 1024 * 1024 };
/** Reads of this byte fail. */
const BROKEN = 7 * 1024 * 1024;

const CONTENT = Buffer.from(
  Uint8Array.from({ length: SIZE }, (_, offset) => (offset >= HOLE.from && offset < HOLE.to ? 0 : 1 + (offset % 251))),
);

/** Half data, half a hole, in parts of odd lengths; answers of long reads come after those of short ones. */
const disk: ServedDisk = {
  sizeBytes: SIZE,
  async read(offset, lengthBytes) {
    const end = offset + lengthBytes;
    if (offset <= BROKEN && end > BROKEN) throw new Error('byte 7340032 was altered');
    await new Promise((resolve) => setTimeout(resolve, lengthBytes / 100_000));
    const parts: (Uint8Array | number)[] = [];
    for (let at = offset; at < end;) {
      const isHole = at >= HOLE.from && at < HOLE.to;
      const to = Math.min(end, at + 100_003, isHole ? HOLE.to : at < HOLE.from ? HOLE.from : SIZE);
      parts.push(isHole ? to - at : CONTENT.subarray(at, to));
      at = to;
    }
    return { parts };
  },
  async extents(offset, lengthBytes) {
    const isZero = offset >= HOLE.from && offset < HOLE.to;
    const to = isZero ? HOLE.to : offset < HOLE.from ? HOLE.from : SIZE;
    return [{ isZero, lengthBytes: Math.min(to - offset, lengthBytes) }];
  },
};

describe('an NBD server', () => {
  let folder: string;
  let socketPath: string;
  let server: AsyncDisposable;
  const problems: string[] = [];
  const listen = (): Promise<AsyncDisposable> =>
    listenNbd({ socketPath, exports: new Map([['vda', disk]]), onProblem: ({ message }) => problems.push(message) });

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'nbd-server-'));
    socketPath = join(folder, 'vda');
    server = await listen();
  });
  afterAll(async () => {
    await server[Symbol.asyncDispose]();
    await rm(folder, { recursive: true });
  });

  const connected = (): Promise<NbdConnection> => connectNbd({ socketPath }, 'vda', { contexts: ['base:allocation'] });
  const expected = (offset: number, lengthBytes: number): Buffer => CONTENT.subarray(offset, offset + lengthBytes);

  it('is for its user alone, and tells its exports and what they are', async () => {
    expect((await stat(socketPath)).mode & 0o777).toBe(0o600);
    expect(await listNbdExports({ socketPath })).toEqual(['vda']);
    await using connection = await connected();
    expect(connection.info).toEqual({
      sizeBytes: SIZE,
      isReadOnly: true,
      canMultiConn: true,
      minBlockBytes: 1,
      maxBlockBytes: 32 * 1024 * 1024,
    });
  });

  it('answers many reads of several connections at once, each with its own bytes', async () => {
    await using one = await connected();
    await using other = await connected();
    const reads = Array.from({ length: 100 }, (_, index) => ({
      connection: index % 2 === 0 ? one : other,
      offset: index * 61_441,
      into: Buffer.alloc(index % 5 === 0 ? 300_000 : 777),
    }));
    await Promise.all(reads.map(({ connection, offset, into }) => connection.read([{ offset, into }])));
    for (const { offset, into } of reads) expect(into.equals(expected(offset, into.length))).toBe(true);
  });

  it('tells zeroes instead of sending them', async () => {
    await using connection = await connected();
    const into = Buffer.alloc(3 * 1024 * 1024, 0xff);
    expect(await connection.read([{ offset: 1_500_000, into }])).toBe(into.length - (HOLE.to - HOLE.from));
    expect(into.equals(expected(1_500_000, into.length))).toBe(true);
    const extents: NbdExtent[] = [];
    for await (const extent of connection.extents()) extents.push(extent);
    expect(extents).toEqual([
      { offset: 0, lengthBytes: HOLE.from, flags: [0] },
      { offset: HOLE.from, lengthBytes: HOLE.to - HOLE.from, flags: [3] },
      { offset: HOLE.to, lengthBytes: SIZE - HOLE.to, flags: [0] },
    ]);
  });

  it('answers a read that fails with EIO and the reason, and goes on', async () => {
    await using connection = await connected();
    problems.length = 0;
    const into = Buffer.alloc(512);
    await expect(connection.read([{ offset: BROKEN, into }])).rejects.toThrow(/byte 7340032 was altered.*EIO/);
    expect(problems).toEqual(['byte 7340032 was altered']);
    await connection.read([{ offset: 10, into }]);
    expect(into.equals(expected(10, 512))).toBe(true);
    await expect(connection.read([{ offset: SIZE - 511, into }])).rejects.toThrow('EINVAL');
  });

  it('takes requests cut at any byte, of a client that knows no structured replies, and refuses its writes', async () => {
    const socket = connect(socketPath);
    const received: Buffer[] = [];
    socket.on('data', (chunk) => received.push(chunk));
    const sent = Buffer.concat([
      Buffer.from([0, 0, 0, 3]),
      encodeOption(99), // unknown
      encodeOption(7, Buffer.concat([encodeString('vdb'), Buffer.alloc(2)])), // an export that is not there
      encodeOption(7, Buffer.concat([encodeString('vda'), Buffer.alloc(2)])),
      encodeRequest(1, 5, 0, 3),
      Buffer.from('xyz'),
      encodeRequest(0, 6, HOLE.from - 2, 4),
      encodeRequest(2, 7, 0, 0),
    ]);
    for (const byte of sent) {
      socket.write(Buffer.of(byte));
      await new Promise((resolve) => setImmediate(resolve));
    }
    await new Promise((resolve) => socket.once('close', resolve));
    const all = Buffer.concat(received).subarray(18).toString('hex');
    const option = (number: number, type: string): string =>
      `0003e889045565a9${number.toString(16).padStart(8, '0')}${type}`;
    expect(all).toContain(option(99, '8000000100000000'));
    expect(all).toContain(option(7, '80000006'));
    expect(all).toContain(option(7, '0000000100000000'));
    expect(all).toContain(`67446698000000010000000000000005`); // EPERM
    expect(all).toContain(`67446698000000000000000000000006${expected(HOLE.from - 2, 4).toString('hex')}`);
  });

  it('ends only the connection of a client that does not speak NBD', async () => {
    await using connection = await connected();
    problems.length = 0;
    const socket = connect(socketPath);
    socket.write('GET / HTTP/1.1\r\n\r\n');
    socket.resume();
    await new Promise((resolve) => socket.once('close', resolve));
    expect(problems).toEqual([expect.stringContaining('NBD client')]);
    const into = Buffer.alloc(512);
    await connection.read([{ offset: 0, into }]);
    expect(into.equals(expected(0, 512))).toBe(true);
  });

  it('takes the place of one that was killed and left its socket', async () => {
    const second = await listen(); // under the same name
    await using connection = await connected();
    const into = Buffer.alloc(16);
    await connection.read([{ offset: 3, into }]);
    expect(into.equals(expected(3, 16))).toBe(true);
    await server[Symbol.asyncDispose]();
    server = second;
  });
});
