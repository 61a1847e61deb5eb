import { createServer, request, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';

/**
 * What happens to a request. `answer` is a made-up answer of a server, sent without asking the one behind; `hold` takes
 * the request and never answers; `reset` ends the connection
 * after the request has come; `truncate` passes the answer on and ends it after so many bytes of its body; `stall` passes
 * that much on, then nothing, with the connection open.
 */
export type Fault =
  | { kind: 'answer'; status: number; code: string; message?: string; headers?: Record<string, string> }
  | { kind: 'reset' }
  | { kind: 'hold' }
  | { kind: 'truncate'; bodyBytes: number }
  | { kind: 'stall'; bodyBytes: number };

export interface SeenRequest {
  method: string;
  /** With the query. */
  url: string;
}

export interface FaultProxy extends AsyncDisposable {
  readonly endpoint: string;
  readonly seen: SeenRequest[];
  /** Each request is shown; what is returned happens to it. */
  onRequest: (request: SeenRequest) => Fault | undefined;
  /** Each request waits this long before it goes on, as on a line with that round trip. */
  latencyMs: number;
}

/**
 * A proxy before a real S3 server, with the troubles that a network and a busy server make. The troubles are imitations; what
 * is not disturbed is the server's own. The `Host` header stays what the client signed.
 */
export async function startFaultProxy(target: { port: number }): Promise<FaultProxy> {
  const sockets = new Set<Socket>();
  const proxy = { seen: [] as SeenRequest[], onRequest: (): Fault | undefined => undefined, latencyMs: 0 };

  const server = createServer((incoming, outgoing) => {
    handle(incoming, outgoing).catch(() => outgoing.destroy());
  });
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy()); // of connections that were reset
  });

  async function handle(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const seen = { method: incoming.method ?? '', url: incoming.url ?? '' };
    proxy.seen.push(seen);
    if (proxy.latencyMs > 0) await delay(proxy.latencyMs);
    const fault = made.onRequest(seen);
    if (fault?.kind === 'answer') {
      incoming.resume();
      await once(incoming, 'end');
      const { status, code, message = 'made up', headers } = fault;
      outgoing.writeHead(status, { 'content-type': 'application/xml', ...headers });
      outgoing.end(`<Error><Code>${code}</Code><Message>${message}</Message></Error>`);
      return;
    }
    if (fault?.kind === 'reset') {
      incoming.resume();
      await once(incoming, 'end');
      outgoing.socket?.resetAndDestroy();
      return;
    }
    if (fault?.kind === 'hold') {
      incoming.resume();
      return;
    }
    const { method, url: path, headers } = incoming;
    const passed = request({ host: '127.0.0.1', port: target.port, method, path, headers, agent: false });
    passed.on('error', () => outgoing.destroy());
    incoming.pipe(passed);
    const [answer] = (await once(passed, 'response')) as [IncomingMessage];
    if (fault?.kind === 'truncate' && fault.bodyBytes === 0) {
      outgoing.destroy();
      passed.destroy();
      return;
    }
    outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
    let leftBytes = fault === undefined ? Infinity : fault.bodyBytes;
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      const part = chunk.subarray(0, leftBytes);
      leftBytes -= part.length;
      if (part.length > 0 && !outgoing.write(part)) await once(outgoing, 'drain');
      if (leftBytes > 0) continue;
      if (fault?.kind === 'truncate') outgoing.destroy();
      passed.destroy();
      return; // stalled: never ended
    }
    outgoing.end();
  }

  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const made: FaultProxy = Object.assign(proxy, {
    endpoint: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  });
  return made;
}
