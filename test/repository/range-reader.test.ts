import { once } from 'node:events';
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { RangeReader, UnusualAnswer, type RangeAnswer, type RangeRequest } from '../../repository/range-reader.ts';

/** A server that says what a test wants, byte by byte: no library sends wrong answers. */
async function startServer(answer: (socket: Socket, request: string, count: number) => void) {
  const sockets = new Set<Socket>();
  let connections = 0;
  let count = 0;
  const server = createServer((socket) => {
    connections += 1;
    sockets.add(socket);
    socket.on('error', () => undefined); // the reader ends connections as it likes
    socket.on('data', (data) => answer(socket, data.toString('latin1'), (count += 1)));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    sockets,
    connections: () => connections,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

const head = (lengthBytes: number, more = ''): string =>
  `HTTP/1.1 206 Partial Content\r\nContent-Length: ${lengthBytes}\r\n${more}\r\n`;

const reader = new RangeReader();
const get = (port: number, into: Uint8Array, more: Partial<RangeRequest> = {}): Promise<RangeAnswer> =>
  reader.get({
    hostname: '127.0.0.1',
    port,
    path: '/bucket/key',
    headers: { host: 'bucket' },
    into,
    stalledMs: 5000,
    ...more,
  });

let server: Awaited<ReturnType<typeof startServer>>;
afterEach(async () => {
  await server[Symbol.asyncDispose]();
});

describe('a reader of ranges', () => {
  it('puts a body into the memory it is for, however it comes', async () => {
    const body = Buffer.from(Array.from({ length: 300_000 }, (_, n) => n % 251));
    const whole = Buffer.concat([Buffer.from(head(body.length, 'ETag: "a:b"\r\n')), body]);
    const send = async (socket: Socket): Promise<void> => {
      let from = 0;
      for (const to of [10, 60, 100_000, whole.length]) {
        socket.write(whole.subarray(from, to));
        from = to;
        await delay(5);
      }
    };
    server = await startServer((socket) => void send(socket));
    for (const into of [Buffer.alloc(body.length), Buffer.from(new SharedArrayBuffer(body.length))]) {
      const answer = await get(server.port, into);
      expect(answer).toMatchObject({ status: 206, readBytes: body.length, said: '' });
      expect(answer.headers.etag).toBe('"a:b"');
      expect(into.equals(body)).toBe(true);
    }
    expect(server.connections()).toBe(1);
  });

  it('asks again where the server had closed a connection that was kept', async () => {
    server = await startServer((socket, _request, count) => {
      if (count === 2) socket.destroy();
      else socket.write(`${head(3)}yes`);
    });
    await get(server.port, Buffer.alloc(3));
    const into = Buffer.alloc(3);
    await get(server.port, into);
    expect(into.toString()).toBe('yes');
    expect(server.connections()).toBe(2);
  });

  it('keeps no connection that the server will close', async () => {
    server = await startServer((socket) => socket.write(`${head(3, 'Connection: close\r\n')}yes`));
    await get(server.port, Buffer.alloc(3));
    await get(server.port, Buffer.alloc(3));
    expect(server.connections()).toBe(2);
  });

  it('tells what a server says that refuses', async () => {
    const said = '<Error><Code>SlowDown</Code></Error>';
    server = await startServer((socket) =>
      socket.write(`HTTP/1.1 503 Slow Down\r\nRetry-After: 2\r\nContent-Length: ${said.length}\r\n\r\n${said}`),
    );
    const into = Buffer.alloc(100);
    expect(await get(server.port, into)).toMatchObject({
      status: 503,
      headers: { 'retry-after': '2' },
      readBytes: 0,
      said,
    });
    expect(into.equals(Buffer.alloc(100))).toBe(true);
  });

  it.each([
    ['in chunks', 'HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n0\r\n\r\n'],
    ['without a length', 'HTTP/1.1 206 Partial Content\r\n\r\nyes'],
    ['longer than was asked for', `${head(30)}yes`],
    ['with more bytes than it says', `${head(2)}yes`],
    ['that is no HTTP', 'SSH-2.0-OpenSSH\r\n\r\n'],
    ['with a head without end', `HTTP/1.1 206 Partial Content\r\nx: ${'y'.repeat(70_000)}`],
  ])('leaves an answer %s to others', async (_kind, answer) => {
    server = await startServer((socket) => socket.write(answer));
    await expect(get(server.port, Buffer.alloc(3))).rejects.toThrow(UnusualAnswer);
  });

  it('fails when the answer ends early', async () => {
    server = await startServer((socket) => socket.end(`${head(30)}yes`));
    await expect(get(server.port, Buffer.alloc(30))).rejects.toMatchObject({ code: 'ECONNRESET' });
  });

  it('fails when the server goes silent in mid-body', async () => {
    server = await startServer((socket) => socket.write(`${head(30)}yes`));
    await expect(get(server.port, Buffer.alloc(30), { stalledMs: 200 })).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  });

  it('writes nothing more into the memory once it was cancelled', async () => {
    const stop = new AbortController();
    server = await startServer((socket) => {
      socket.write(`${head(30)}yes`);
      setTimeout(() => stop.abort(new Error('by a person')), 50);
      setTimeout(() => socket.write('x'.repeat(27)), 60);
    });
    const into = Buffer.alloc(30);
    await expect(get(server.port, into, { signal: stop.signal })).rejects.toThrow('by a person');
    await delay(100);
    expect(into.toString()).toBe(`yes${'\0'.repeat(27)}`);
  });
});
