import { connect as createConnectionTo, createServer } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { connectNbd, listNbdExports } from '../../nbd/connection.ts';
import { joined } from '../../nbd/extents.ts';
import { CMD_READ, OPT_GO, OPT_STRUCTURED_REPLY } from '../../nbd/protocol.ts';
import {
  dataChunk,
  errorChunk,
  FakeNbdServer,
  noneChunk,
  pageNumbers,
  statusChunk,
  type FakeNbdOptions,
} from './fake-nbd-server.ts';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;

async function connected(options: FakeNbdOptions, contexts: string[] = []) {
  const server = await FakeNbdServer.start(options);
  const connection = await connectNbd(server, 'disk', { contexts });
  return {
    server,
    connection,
    async [Symbol.asyncDispose]() {
      await connection[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

describe('NbdConnection', () => {
  it('reads stretches of any length into the memory given', async () => {
    await using both = await connected({ sizeBytes: 64 * MIB });
    const long = Buffer.alloc(9 * MIB + 5);
    const short = Buffer.alloc(10);
    const empty = Buffer.alloc(0);
    const dataBytes = await both.connection.read([
      { offset: 4090, into: long },
      { offset: 50 * MIB, into: short },
      { offset: 0, into: empty },
    ]);
    expect(dataBytes).toBe(long.length + short.length);
    expect(long.equals(pageNumbers(4090, long.length))).toBe(true);
    expect(short.equals(pageNumbers(50 * MIB, 10))).toBe(true);
  });

  it('sends all requests before the first answer', async () => {
    const held: (() => void)[] = [];
    await using both = await connected({
      sizeBytes: 64 * MIB,
      onRequest: (request, socket) => {
        held.push(() =>
          socket.write(dataChunk(request, request.offset, pageNumbers(request.offset, request.lengthBytes), true)),
        );
        if (held.length === 8) for (const answer of held.reverse()) answer();
        return Buffer.alloc(0);
      },
    });
    const buffers = Array.from({ length: 8 }, (_, i) => ({ offset: i * MIB, into: Buffer.alloc(8192) }));
    await both.connection.read(buffers);
    for (const { offset, into } of buffers) expect(into.equals(pageNumbers(offset, 8192))).toBe(true);
  });

  it('reads from a server without structured replies', async () => {
    await using both = await connected({ sizeBytes: MIB, hasStructuredReplies: false });
    const into = Buffer.alloc(5000);
    expect(await both.connection.read([{ offset: 3, into }])).toBe(5000);
    expect(into.equals(pageNumbers(3, 5000))).toBe(true);
  });

  it('reads offsets above 4 GiB', async () => {
    await using both = await connected({ sizeBytes: 900_000 * GIB });
    const into = Buffer.alloc(512);
    await both.connection.read([{ offset: 800_000 * GIB + 7, into }]);
    expect(both.server.requests[0]).toMatchObject({ type: CMD_READ, offset: 800_000 * GIB + 7, lengthBytes: 512 });
  });

  it('reports an error of the server and goes on', async () => {
    await using both = await connected({
      sizeBytes: MIB,
      onRequest: (request) => (request.number === 1 ? errorChunk(request, 5, 'bad sector') : undefined),
    });
    await expect(both.connection.read([{ offset: 0, into: Buffer.alloc(8) }])).rejects.toMatchObject({
      name: 'NbdError',
      code: 'EIO',
    });
    expect(await both.connection.read([{ offset: 0, into: Buffer.alloc(8) }])).toBe(8);
  });

  it('fails everything under way, and all that follows, when the connection is lost', async () => {
    await using both = await connected({
      sizeBytes: MIB,
      onRequest: (request, socket) => {
        if (request.number === 3) socket.destroy();
        return Buffer.alloc(0);
      },
    });
    const read = () => both.connection.read([{ offset: 0, into: Buffer.alloc(8) }]);
    const outcomes = await Promise.allSettled([read(), read(), read()]);
    for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: { name: 'NbdConnectionLost' } });
    await expect(read()).rejects.toMatchObject({ name: 'NbdConnectionLost' });
    expect(both.connection.ended).toMatchObject({ name: 'NbdConnectionLost' });
  });

  it('waits for every answer of a failed read before it lets go of the memory', async () => {
    let answerLast = () => undefined as unknown;
    await using both = await connected({
      sizeBytes: MIB,
      onRequest: (request, socket) => {
        if (request.number === 1) return errorChunk(request, 5);
        answerLast = () => socket.write(dataChunk(request, request.offset, Buffer.alloc(request.lengthBytes), true));
        return Buffer.alloc(0);
      },
    });
    let isSettled = false;
    const read = both.connection.read([
      { offset: 0, into: Buffer.alloc(8) },
      { offset: 8, into: Buffer.alloc(8) },
    ]);
    void read.catch(() => (isSettled = true));
    while (both.server.requests.length < 2) await turn();
    for (let i = 0; i < 20; i++) await turn();
    expect(isSettled).toBe(false);
    answerLast();
    await expect(read).rejects.toMatchObject({ code: 'EIO' });
  });

  it('ends the connection on abort, so that no byte arrives afterwards', async () => {
    const controller = new AbortController();
    await using both = await connected({
      sizeBytes: MIB,
      onRequest: () => {
        controller.abort(new Error('enough'));
        return Buffer.alloc(0);
      },
    });
    await expect(both.connection.read([{ offset: 0, into: Buffer.alloc(8) }], controller)).rejects.toThrow('enough');
    expect(both.connection.ended).toBeDefined();
    await expect(both.connection.read([{ offset: 0, into: Buffer.alloc(8) }], controller)).rejects.toThrow('enough');
  });

  it('closes the connection when a reply breaks the protocol', async () => {
    await using both = await connected({
      sizeBytes: MIB,
      onRequest: (request) => noneChunk({ cookie: request.cookie + 1 }),
    });
    await expect(both.connection.read([{ offset: 0, into: Buffer.alloc(8) }])).rejects.toMatchObject({
      name: 'NbdProtocolError',
    });
    expect(both.connection.ended).toMatchObject({ name: 'NbdProtocolError' });
  });
});

describe('NbdConnection.extents', () => {
  const contexts = ['qemu:dirty-bitmap:b', 'base:allocation'];

  it('walks a disk of many TiB in requests of 32 bits', async () => {
    await using both = await connected({ sizeBytes: 5000 * GIB + 512, contexts }, contexts);
    expect(await Array.fromAsync(joined(both.connection.extents()))).toEqual([
      { offset: 0, lengthBytes: 5000 * GIB + 512, flags: [0, 0] },
    ]);
    expect(both.server.requests.length).toBe(2501);
    expect(Math.max(...both.server.requests.map(({ lengthBytes }) => lengthBytes))).toBe(2 * GIB);
  });

  it('goes on where the shorter of two answers ended', async () => {
    const extentsOf = (index: number, { offset, lengthBytes }: { offset: number; lengthBytes: number }) => {
      const upTo = Math.min(lengthBytes, index === 0 ? 700 : 300);
      return [upTo, Math.floor(offset / 1000) % 2 === 0 ? 1 : 0];
    };
    await using both = await connected({ sizeBytes: 3000, contexts, extentsOf }, contexts);
    const extents = await Array.fromAsync(both.connection.extents());
    expect(extents.map(({ lengthBytes }) => lengthBytes)).toEqual(Array.from({ length: 10 }, () => 300));
  });

  it('gives flags in the order asked for, whatever ids the server chose', async () => {
    const extentsOf = (index: number, { lengthBytes }: { lengthBytes: number }) => [lengthBytes, index === 0 ? 1 : 2];
    await using both = await connected({ sizeBytes: 1000, contexts, extentsOf }, contexts.toReversed());
    expect(await Array.fromAsync(both.connection.extents())).toEqual([{ offset: 0, lengthBytes: 1000, flags: [2, 1] }]);
  });

  it('tells of a part of the disk', async () => {
    await using both = await connected({ sizeBytes: 10_000, contexts }, contexts);
    expect(await Array.fromAsync(both.connection.extents({ from: 1000, to: 1500 }))).toEqual([
      { offset: 1000, lengthBytes: 500, flags: [0, 0] },
    ]);
  });

  it.each([
    ['an answer that lacks a context', (request: { cookie: number }) => statusChunk(request, 1, [1000, 0])],
    [
      'extents of length 0',
      (request: { cookie: number }) =>
        Buffer.concat([statusChunk(request, 1, [0, 0], false), statusChunk(request, 2, [1000, 0])]),
    ],
  ])('gives the connection up on %s', async (_, answer) => {
    await using both = await connected({ sizeBytes: 1000, contexts, onRequest: answer }, contexts);
    await expect(Array.fromAsync(both.connection.extents())).rejects.toMatchObject({ name: 'NbdProtocolError' });
    expect(both.connection.ended).toBeDefined();
  });

  it('stops on abort', async () => {
    const controller = new AbortController();
    await using both = await connected(
      { sizeBytes: 1000, contexts, onRequest: () => (controller.abort(new Error('enough')), Buffer.alloc(0)) },
      contexts,
    );
    await expect(Array.fromAsync(both.connection.extents({ signal: controller.signal }))).rejects.toThrow('enough');
  });
});

describe('connectNbd', () => {
  it('says where nobody listens', async () => {
    await expect(connectNbd({ socketPath: '/nonexistent/nbd.sock' }, '')).rejects.toMatchObject({
      name: 'NbdConnectionLost',
      message: expect.stringContaining('/nonexistent/nbd.sock') as unknown,
    });
  });

  it('gives up on a server that says nothing', async () => {
    await using server = await FakeNbdServer.start({ sizeBytes: 1, greeting: Buffer.alloc(0) });
    await expect(connectNbd(server, '', { timeoutMs: 50 })).rejects.toThrow('no handshake in 50 ms');
  });

  it('gives up on a server that stops in the middle of the handshake', async () => {
    await using server = await FakeNbdServer.start({
      sizeBytes: 1,
      onOption: (option) => (option === OPT_GO ? Buffer.alloc(0) : undefined),
    });
    await expect(connectNbd(server, '', { timeoutMs: 50 })).rejects.toThrow('no handshake in 50 ms');
  });

  it('can be aborted in the handshake and before it', async () => {
    const controller = new AbortController();
    const onOption = (option: number) => {
      if (option === OPT_STRUCTURED_REPLY) controller.abort(new Error('enough'));
      return Buffer.alloc(0);
    };
    await using server = await FakeNbdServer.start({ sizeBytes: 1, onOption });
    await expect(connectNbd(server, '', controller)).rejects.toThrow('enough');
    await expect(connectNbd(server, '', controller)).rejects.toThrow('enough');
    expect(server.connections).toBe(1);
  });

  it('connects over TCP', async () => {
    await using fake = await FakeNbdServer.start({ sizeBytes: 77 });
    const forward = createServer((socket) => {
      const other = createConnectionTo(fake.socketPath);
      socket.pipe(other).pipe(socket);
    });
    await new Promise<void>((resolve) => void forward.listen(0, '127.0.0.1', resolve));
    const { port } = forward.address() as { port: number };
    const connection = await connectNbd({ host: '127.0.0.1', port }, '');
    expect(connection.info.sizeBytes).toBe(77);
    await connection[Symbol.asyncDispose]();
    forward.close();
  });

  it('passes on that a server does not list its exports', async () => {
    await using server = await FakeNbdServer.start({ sizeBytes: 1, hasStructuredReplies: true });
    await expect(listNbdExports(server)).rejects.toMatchObject({ name: 'NbdRefused', code: 'unsupported' });
  });
});
